"""A real Xen host: the lab's, or the one that SANDBOX_XEN_URI names.

A host of one's own needs two Debian guests with one network card on a bridge, whose root lets in
the key SANDBOX_XEN_KEY:

- SANDBOX_XEN_GUEST (web01): a running PV guest with nginx and two disks on LVM thin, the smaller
  one of 64 MiB or so, in a group with 100 MiB free outside of the pool. Its administrator points
  it to the tests' own archive while they last.
- SANDBOX_XEN_STOPPED (db01): a PV guest that is off, its disk a qcow2 file on a file system with
  reflinks, booted by pygrub.

SANDBOX_XEN_GRUB (/usr/lib/grub-xen) is where the host has grub-xen-host's images. All else
(disks, volume group, pool, bridge) is found by looking.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from lxml import etree

from sandbox.clone.discovery import link_local
from sandbox.core.deadline import Deadline
from sandbox.core.process import Completed, run
from sandbox.core.progress import Silent
from sandbox.core.records import Disk, RunRecord, Verdict
from sandbox.core.settings import Settings, shipped_scenarios
from sandbox.core.store import Store
from sandbox.demo.image import ensure_key
from sandbox.demo.lab import machine
from sandbox.hosts.drivers import Hypervisor, driver_for
from sandbox.hosts.drivers.clone_xml import macs
from sandbox.hosts.source import guest_source
from sandbox.hosts.volumes import host_disks, lvm
from sandbox.network.isolation import names
from sandbox.rehearsal.recipe import rehearse
from sandbox.scenario import Scenario
from sandbox.scenario.request import Request, prepare
from tests.support.guests import archive as archives

GUEST = os.environ.get("SANDBOX_XEN_GUEST", "web01")
STOPPED = os.environ.get("SANDBOX_XEN_STOPPED", "db01")
GRUB = os.environ.get("SANDBOX_XEN_GRUB", "/usr/lib/grub-xen")
PATIENCE = 1800.0  # seconds for a command; two clones at once, on a machine with much else to do
# Everything takes its time where Xen itself is emulated.
SLOW = "deadlines: {clone: 10m, boot: 15m, baseline: 10m, upgrade: 40m, reboot: 15m, verify: 10m}\n"
LOOK = "def test_is_up(host):\n    assert host.file('/etc/hostname').exists\n"
QUICK = "reboot: never\nchecks: {shared: []}\n"


@dataclass(frozen=True)
class Host:
    """A Xen host as its administrator has it."""

    uri: str
    key: Path
    shell: Hypervisor

    def run(self, script: str, *, check: bool = True) -> str:
        """A script in dom0; its output."""
        deadline = Deadline(300, "in dom0")
        done = self.shell.host.run(["sh", "-c", script], deadline, check=check)
        return done.stdout

    def domid(self, name: str) -> str:
        return self.run(f"xl domid {shlex.quote(name)}").strip()

    def disks(self, guest: str) -> tuple[Disk, ...]:
        return guest_source(self.shell, guest, Deadline(300, "looking at disks")).disks

    def smallest_disk(self, guest: str) -> Disk:
        """Small enough to be read whole."""
        return min(self.disks(guest), key=lambda disk: disk.size)

    def volume(self, disk: Disk) -> lvm.Volume:
        """What a disk of a guest is to LVM: its group and its pool."""
        return lvm.survey(self.shell.host, Deadline(60, "looking at volumes")).by_path[disk.path]

    def bridge(self, guest: str) -> str:
        """Production's bridge, which the guest is plugged into."""
        source = etree.fromstring(self.shell.lookup(guest).xml.encode()).find(
            "./devices/interface/source[@bridge]"
        )
        assert source is not None, f"{guest} has no network card on a bridge"
        return str(source.get("bridge"))


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """The lab, started where it does not run and ended by who started it."""
    uri, key = os.environ.pop("SANDBOX_XEN_URI", ""), os.environ.pop("SANDBOX_XEN_KEY", "")
    lab = machine.Lab()
    started = not uri and lab.pid() is None
    try:
        if not uri:
            machine.up(lab, print)
        connection = driver_for(uri or lab.uri, Deadline(120, "connecting"))
        try:
            yield Host(uri or lab.uri, Path(key) if key else ensure_key(), connection)
        finally:
            connection.close()
    finally:
        if started:
            machine.down(lab)


@dataclass(frozen=True)
class Administrator:
    """The hand of the source's administrator: into the guest, past everything of ours."""

    host: Host
    guest: str

    def inside(
        self, script: str, *, check: bool = True, input: bytes = b"", seconds: float = 300
    ) -> Completed:
        mac = macs(self.host.shell.lookup(self.guest).xml)[0]
        argv = [
            *("ssh", "-i", self.host.key, "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", f"ProxyCommand={self.host.shell.host.proxy_command}"),
            f"root@{link_local(mac)}%{self.host.bridge(self.guest)}",
            script,
        ]
        return run(argv, Deadline(seconds, "in the source"), check=check, input=input)


@pytest.fixture(scope="session")
def archive() -> Iterator[archives.Archive]:
    with archives.serving() as served:
        yield served


@pytest.fixture(scope="session")
def administrator(host: Host, archive: archives.Archive) -> Iterator[Administrator]:
    """The source's packages come from the tests' archive while the tests last."""
    hand = Administrator(host, GUEST)
    hand.inside(
        "cp -n /etc/apt/sources.list /root/sources.list.before; "
        f"echo {shlex.quote(archives.SOURCES_LIST.strip())} >/etc/apt/sources.list; sync"
    )
    yield hand
    hand.inside("mv /root/sources.list.before /etc/apt/sources.list; sync")


@pytest.fixture
def state() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sbxen-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def settings(state: Path, host: Host, archive: archives.Archive) -> Settings:
    return Settings(
        state=state,
        cache=state / "cache",
        uri=host.uri,
        scenarios=(shipped_scenarios(),),
        upstream_proxy=archive.url,
        proxy_allow=(archives.SOURCE,),
        control="never",  # the lab's memory is small: what is about controls asks for them
        watch=0.0,
    )


@dataclass
class Xen:
    """Rehearses in-process, on the real host."""

    host: Host
    settings: Settings
    folder: Path
    progress: Silent

    def scenario(self, text: str, *, deadlines: str = SLOW, **files: str) -> Path:
        folder = self.folder / f"scenario{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        login = f"login: {{user: root, key: {self.host.key}}}\n"
        (folder / "scenario.yaml").write_text(login + deadlines + text)
        for name, content in files.items():
            (folder / f"{name}.py").write_text(content)
        return folder

    def prepared(self, scenario: Path, guest: str = GUEST, upgrade: str | None = None) -> Scenario:
        return prepare(
            Request(str(scenario), guest=guest, image=None, format=None, upgrade=upgrade),
            self.settings,
        )

    def run(
        self, scenario: Path, guest: str = GUEST, *, upgrade: str | None = None, keep: bool = False
    ) -> RunRecord:
        return rehearse(
            self.prepared(scenario, guest, upgrade),
            self.host.shell,
            Store(self.settings).create(),
            self.settings,
            self.progress,
            accelerated=False,
            keep=keep,
        )

    def artifact(self, record: RunRecord, name: str) -> str:
        return (self.settings.runs / record.id / name).read_text(errors="replace")


def verdict(record: RunRecord) -> Verdict:
    assert record.decision is not None
    return record.decision.verdict


def reason(record: RunRecord) -> str:
    assert record.decision is not None
    return record.decision.reason


@pytest.fixture
def xen(
    settings: Settings, host: Host, administrator: Administrator, tmp_path: Path, left: None
) -> Xen:
    return Xen(host, settings, tmp_path, Silent())


@pytest.fixture
def left(state: Path, host: Host) -> Iterator[None]:
    """Nothing of this test's runs stays on the host, nor on this machine. Stand-ins end there by
    themselves when their bridge is gone, as fast as an emulated host lets them."""
    yield
    limit = Deadline(300, "looking for leftovers")
    while (found := leftovers(state, host)) and not limit.expired():
        limit.sleep(1)
    assert found == {}


@cache
def images_folder(host: Host) -> Path:
    """Where the stopped guest's image lies: a file system with reflinks."""
    return Path(host.disks(STOPPED)[0].path).parent


def leftovers(state: Path, host: Host) -> dict[str, str]:
    """What exists of the runs of a state folder, on the Xen host and here."""
    ids = {path.name for kind in ("runs", "clones") for path in (state / kind).glob("*")}
    there = host.run(
        "xl list; virsh list --all --name; virsh net-list --all --name; ip -br link; "
        f"nft list tables; lvs -o lv_name,lv_tags; ls {host_disks.FOLDER} "
        f"{shlex.quote(f'{images_folder(host)}/{host_disks.PLACE}')} 2>/dev/null; "
        "ps -eo args | grep -F -e qemu-nbd -e sandbox-standins -e sandbox-listener",
        check=False,
    )
    found = {}
    for run_id in ids:
        nets = (names(run_id), names(run_id, control=True))
        words = {run_id, *(net.bridge for net in nets), *(net.table for net in nets)}
        for line in there.splitlines():
            if any(word in line for word in words):
                found[run_id] = line
        if (state / "clones" / run_id).exists():
            found[f"{run_id} here"] = "its folder"
    return found
