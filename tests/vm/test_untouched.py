"""The source stays as it is: a stopped one to the last byte, a running one while it runs on."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.core.progress import Silent
from sandbox.core.records import Phase, RunRecord, Verdict
from sandbox.core.store import Store
from sandbox.demo.guest import (
    FOLDER,
    Production,
    domain_xml,
    mac_address,
    start_production,
    stop_production,
)
from sandbox.demo.image import DemoImage
from sandbox.hosts.drivers.acceleration import acceleration
from sandbox.network import isolation
from tests.support.guests import capture, leftovers
from tests.support.guests.archive import Archive
from tests.support.guests.guests import PRODUCTION, Lab
from tests.support.guests.hostile_program import words
from tests.support.guests.sources import alive, inside, uptime, virsh
from tests.support.waiting import wait_until

pytestmark = pytest.mark.vm

STOPPED = f"{PRODUCTION}-off"
TWO_DISKS = f"{PRODUCTION}-two"
CHECK = "def test_is_up(host):\n    assert host.file('/etc/hostname').exists\n"
SCENARIO = """
upgrade: {what: script, script: upgrade.sh}
reboot: never
checks: {shared: []}
"""
# The clone has production's MAC and addresses: only words tell its packets from production's.
SHOUT = f"""#!/usr/bin/python3
import socket
number, card = [one for one in socket.if_nameindex() if one[1] != "lo"][0]
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
    for _ in range(20):
        sock.sendto({words("shout")!r}, ("ff02::1", 9, 0, number))
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
    wire.bind((card, 0))
    for _ in range(20):
        wire.send(bytes([255] * 6) + wire.getsockname()[4] + bytes([0x88, 0xb5]) + {words("cry")!r})
"""
# Writes n to one disk, then n to the other, past all caches, as fast as it can.
WRITER = """
import mmap, os
def opened(path, flags=0):
    return os.open(path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC | flags, 0o600)
page = mmap.mmap(-1, 4096)
first, second = opened("/var/counter", os.O_CREAT), opened("/dev/vdb")
number = 0
while True:
    page[:16] = b"%016d" % number
    os.pwrite(first, page, 0)
    os.pwrite(second, page, 0)
    if number == 0:
        os.sync()
    number += 1
"""
COUNTERS = "head -c 16 /var/counter; echo; head -c 16 /dev/vdb; echo"


@dataclass(frozen=True)
class Identity:
    """All that a file is, but for when it was read."""

    content: str
    stat: tuple[int, ...]  # the time of the last change of owner or attributes, too
    attributes: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, path: Path) -> Identity:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        s = path.stat()
        return cls(
            content,
            (s.st_ino, s.st_mode, s.st_uid, s.st_gid, s.st_size, s.st_mtime_ns, s.st_ctime_ns),
            tuple((name, os.getxattr(path, name)) for name in sorted(os.listxattr(path))),
        )


@pytest.fixture
def stopped(image: DemoImage, production: Production) -> Iterator[Path]:
    """A guest that is defined but does not run; production keeps its network up. Its disk."""
    folder = FOLDER / STOPPED
    folder.mkdir()
    folder.chmod(0o711)
    disk = folder / "vda.qcow2"
    base = ("-b", str(image.path), "-F", "qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, disk], check=True)
    os.setxattr(disk, "user.owner", b"the one who made it")
    kind = "kvm" if acceleration() == "kvm" else "qemu"
    definition = folder / "domain.xml"
    definition.write_text(
        domain_xml(
            STOPPED,
            disks=(disk,),
            base=image.path,
            mac=mac_address(STOPPED),
            kind=kind,
            memory_mib=512,
            cpus=2,
        )
    )
    virsh("define", definition)
    yield disk
    stop_production(STOPPED)


@pytest.fixture
def scenario(lab: Lab, archive: Archive) -> Callable[[str], Path]:
    def make(script: str) -> Path:
        archive.offer([])
        folder = lab.scenario(SCENARIO, test_up=CHECK)
        (folder / "upgrade.sh").write_text(script)
        return folder

    return make


def test_a_stopped_source_is_the_same_to_the_last_byte(
    lab: Lab, stopped: Path, image: DemoImage, scenario: Callable[[str], Path]
) -> None:
    files = (stopped, image.path)
    before, xml = [Identity.of(path) for path in files], virsh("dumpxml", STOPPED)
    record = lab.run(scenario("echo >/etc/changed-in-the-clone"), guest=STOPPED)
    assert _verdict(record) is Verdict.PASS, record.decision
    assert record.source is not None
    assert (record.source.kind, record.source.method) == ("stopped guest", "read-only export")
    assert [Identity.of(path) for path in files] == before
    assert before[0].attributes == (("user.owner", b"the one who made it"),)
    assert virsh("dumpxml", STOPPED) == xml
    assert virsh("domstate", STOPPED).strip() == "shut off"


def test_a_stopped_source_can_be_started_while_its_clone_runs(
    lab: Lab,
    stopped: Path,
    scenario: Callable[[str], Path],
    when: Callable[[Phase, Callable[[], None]], Silent],
) -> None:
    states: list[str] = []

    def start() -> None:
        virsh("start", STOPPED)
        states.append(virsh("domstate", STOPPED).strip())

    lab.progress = when(Phase.BASELINE, start)
    record = lab.run(scenario("true"), guest=STOPPED)
    assert states == ["running"]
    assert virsh("domstate", STOPPED).strip() == "running", "it runs on without its clone"
    assert _verdict(record) is Verdict.ERROR
    assert record.decision is not None
    assert "the source was started while its clone ran" in record.decision.reason
    assert record.source is not None
    assert record.source.untouched == ()


def test_a_running_source_runs_on_as_it_was(
    lab: Lab,
    production: Production,
    scenario: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its kept clone goes before the disk is full: the command has ended by then, and what
    production overwrites still goes to that disk."""
    before, up_since = alive(production), uptime(production)
    monkeypatch.setattr("sandbox.clone.create.LEAST_FREE", 1 << 60)
    with capture.Capture() as watch:
        record = lab.run(scenario(SHOUT), guest=PRODUCTION, keep=True)
        wait_until(lambda: not leftovers.count(lab.settings.state), "the disk's watch", every=0.2)
        seen = dict(watch.seen)
    assert (_verdict(record), record.state) == (Verdict.PASS, "kept"), record.decision
    assert record.source is not None
    assert (record.source.kind, record.source.method) == ("running guest", "backup export")
    assert alive(production) == before
    assert uptime(production) > up_since
    assert leftovers.backup_jobs([PRODUCTION]) == 0
    closed = Store(lab.settings).load(Store(lab.settings).folder(record.id))
    assert closed.state == "finished"
    assert closed.source is not None
    assert "the clone was removed so that the source can write" in closed.source.warnings[-1]
    own = isolation.names(record.id).bridge
    for sign in ("shout", "cry"):
        where = {interface for interface, said in seen if said == sign}
        assert own in where, "the clone was not heard at all"
        assert {interface for interface in where if not interface.startswith(own)} == set()


def test_all_disks_of_a_running_source_are_cloned_at_one_instant(
    lab: Lab, image: DemoImage, production: Production, scenario: Callable[[str], Path]
) -> None:
    del production  # its network has to stay up
    try:
        source = start_production(TWO_DISKS, image=image, extra_disk_bytes=64 << 20)
        inside(source, "cat >/run/writer.py", WRITER)
        inside(source, "systemd-run --quiet python3 /run/writer.py; sleep 5; " + COUNTERS)
        chain = virsh("domblklist", TWO_DISKS)
        record = lab.run(scenario(COUNTERS), guest=TWO_DISKS)
        now = [int(line) for line in inside(source, COUNTERS).split()]
        assert virsh("domblklist", TWO_DISKS) == chain
    finally:
        stop_production(TWO_DISKS)
    assert _verdict(record) is Verdict.PASS, record.decision
    assert record.source is not None
    assert [disk.target for disk in record.source.disks] == ["vda", "vdb"]
    log = (lab.artifacts(record) / "upgrade.log").read_text()
    first, second = (int(line) for line in log.splitlines() if line.isdecimal())
    assert first - second in (0, 1), "the disks are of different instants"
    assert 0 < first < now[0], "the source went on writing"


def _verdict(record: RunRecord) -> Verdict:
    assert record.decision is not None
    return record.decision.verdict
