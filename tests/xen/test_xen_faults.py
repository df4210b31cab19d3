"""What goes wrong on a Xen host: the run ends with the right verdict, and nothing stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Command
from xenlab import GUEST, STOPPED, Host, Xen, reason, verdict

from sandbox.deadline import Deadline
from sandbox.demo.broken import build_deb
from sandbox.errors import HostError, RequestError
from sandbox.host import HostLost, RemoteHost
from sandbox.hypervisors import Mark
from sandbox.records import Disk, Phase, Verdict
from sandbox.source import guest_source
from sandbox.volumes import host_disks, lvm

pytestmark = pytest.mark.xen

LOOK = "def test_is_up(host):\n    assert host.file('/etc/hostname').exists\n"
QUICK = "reboot: never\nchecks: {shared: []}\n"
Disks = Callable[[str], tuple[Disk, ...]]
ALL = "upgrade: {what: all}\n"


@pytest.fixture
def sandbox(xen: Xen, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts `sandbox ARGUMENTS` with the test's state folder; ends what still runs."""
    environment = {name: value for name, value in os.environ.items() if "SANDBOX" not in name} | {
        "SANDBOX_STATE": str(xen.settings.state),
        "SANDBOX_CACHE": str(xen.settings.cache),
        "SANDBOX_URI": xen.settings.uri,
        "SANDBOX_UPSTREAM_PROXY": xen.settings.upstream_proxy,
        "SANDBOX_PROXY_ALLOW": " ".join(xen.settings.proxy_allow),
    }
    started: list[Command] = []

    def start(*arguments: object) -> Command:
        started.append(Command(arguments, environment, tmp_path / f"output{len(started)}"))
        return started[-1]

    yield start
    for command in started:
        command.end()


def test_two_at_once_one_is_killed_the_other_crashes_and_a_third_does_not_fit(
    xen: Xen, sandbox: Callable[..., Command], host: Host, tmp_path: Path
) -> None:
    """Two clones live beside each other. kill -9 of one, and reaping it, does not touch the
    other, whose kernel panics in its upgrade: that is found, and is the upgrade's fault."""
    package = build_deb("xen-crash", "1.0", out=tmp_path / "deb", postinst=CRASH)
    scenario = xen.scenario(ALL + QUICK, test_up=LOOK)
    crashing = sandbox("run", scenario, "--guest", GUEST, "--upgrade", package)
    killed = sandbox("run", scenario, "--guest", STOPPED, "--upgrade", package)
    killed.wait_for_phase(Phase.BOOT)
    crashing.wait_for_phase(Phase.BOOT)
    assert host.run("xl list").count("sandbox-") == 2, "two clones beside each other"
    dom0 = host.run(DOM0_MEMORY)
    killed.kill()
    reaped = sandbox("reap").succeed()
    assert "removed domain" in reaped
    assert "nothing to remove" in sandbox("reap").succeed()
    greedy = xen.scenario(ALL + QUICK + "memory: 64GiB\n", test_up=LOOK)
    refused = sandbox("run", greedy, "--guest", GUEST)
    assert refused.finish() == 4
    assert "MiB free" in refused.output
    assert crashing.finish() == 1, crashing.output
    assert "crash" in crashing.output
    assert host.run(DOM0_MEMORY) == dom0, "dom0 ballooned"


CRASH = "#!/bin/sh\necho c >/proc/sysrq-trigger\nsleep 60\n"
DOM0_MEMORY = "xl list Domain-0 | awk 'NR == 2 { print $3 }'"


# -- without booting anything -------------------------------------------------------------------


@pytest.fixture
def mark(state: Path) -> Mark:
    """Of a run that never was, but could have been."""
    run_id = f"20260101-000000-{os.urandom(3).hex()}"
    (state / "runs" / run_id).mkdir(parents=True)
    return Mark(run_id, "1:1:x:y", int(time.time()) + 3600, str(state / "clones" / run_id))


@pytest.fixture
def disks(xen: Xen) -> Disks:
    def of(guest: str) -> tuple[Disk, ...]:
        return guest_source(xen.host.shell, guest, soon()).disks

    return of


def soon() -> Deadline:
    return Deadline(300, "test")


def test_a_snapshot_is_the_origin_at_its_instant_and_costs_nothing(
    xen: Xen, host: Host, mark: Mark, disks: Disks
) -> None:
    """The second disk, small enough to be read whole; written to afterwards, on both sides."""
    shell = host.shell.host
    (data,) = (disk for disk in disks(GUEST) if disk.target == "xvdb")
    pool = lvm.survey(shell, soon()).pools[0]
    before = host.run(f"xl pause {GUEST}; sha256sum <{data.path}")
    made = host_disks.HostDisks(shell).make(GUEST, False, [data], mark, soon())
    host.run(f"xl unpause {GUEST}")
    (clone,) = made.disks
    try:
        assert host.run(f"sha256sum <{clone.overlay}") == before
        grown = lvm.survey(shell, soon()).pools[0].data - pool.data
        assert grown * pool.size / 100 < 1 << 20, "a snapshot allocates nothing"
        host.run(f"dd if=/dev/urandom of={clone.overlay} bs=1M count=4 conv=fsync status=none")
        assert host.run(f"sha256sum <{clone.overlay}") != before
        assert host.run(f"sha256sum <{data.path}") == before
    finally:
        assert host_disks.remove(shell, mark.run, soon())


def test_a_busy_snapshot_is_waited_for(host: Host, mark: Mark, disks: Disks, left: None) -> None:
    shell = host.shell.host
    (data,) = (disk for disk in disks(GUEST) if disk.target == "xvdb")
    (clone,) = host_disks.HostDisks(shell).make(GUEST, True, [data], mark, soon()).disks
    host.run(f"setsid sh -c 'sleep 12 <{clone.overlay}' >/dev/null 2>&1 </dev/null & sleep 1")
    removed = host_disks.remove(shell, mark.run, soon())
    assert removed == (f"volume vg0/{clone.overlay.name}",)


def test_a_pool_that_is_too_full_refuses_before_anything_is_made(
    xen: Xen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lvm, "POOL_LIMIT", 1.0)  # the lab's pool has more in it than that
    record = xen.run(xen.scenario(ALL + QUICK, test_up=LOOK))
    assert verdict(record) is Verdict.ERROR
    assert "thin pool" in reason(record)
    assert "% full" in reason(record)


def test_files_without_reflinks(xen: Xen, host: Host, mark: Mark, disks: Disks) -> None:
    """A stopped guest's are served read-only beneath an overlay; a running guest's are refused."""
    shell = host.shell.host
    (disk,) = disks(STOPPED)
    path = "/root/sbtest-plain.raw"
    host.run(f"truncate -s 64M {path}; dd if=/dev/urandom of={path} bs=1M count=1 conv=notrunc")
    plain = disk.model_copy(update={"path": path, "format": "raw", "size": 64 << 20})
    before = host.run(f"stat -c '%i %Y %s' {path}; sha256sum {path}")
    maker = host_disks.HostDisks(shell)
    with pytest.raises(RequestError, match="file system without reflinks"):
        maker.make(STOPPED, True, [plain], mark, soon())
    made = maker.make(STOPPED, False, [plain], mark, soon())
    try:
        assert made.method == "read-only export"
        assert made.allocated < 1 << 20
        (clone,) = made.disks
        compared = host.run(f"qemu-img compare -U -f qcow2 -F raw {clone.overlay} {path}")
        assert "identical" in compared
        host.run(f"qemu-io -f qcow2 -c 'write -P 7 0 64k' {clone.overlay}")
        assert host.run(f"stat -c '%i %Y %s' {path}; sha256sum {path}") == before
    finally:
        assert host_disks.remove(shell, mark.run, soon())
        host.run(f"rm -f {path}")


def test_a_host_that_cannot_be_reached_is_an_error_with_its_name() -> None:
    nowhere = RemoteHost("xen+ssh://root@127.0.0.1:1/system")
    with pytest.raises(HostLost, match=r"127\.0\.0\.1"):
        nowhere.run(["true"], soon())
    assert issubclass(HostLost, HostError)


def test_a_kernel_of_the_hosts_rejects_kernel_rehearsals_only(xen: Xen, host: Host) -> None:
    name = "sbtest-hostkernel"
    xml = host.run(f"virsh dumpxml --inactive {STOPPED}")
    start, end = xml.index("<uuid>"), xml.index("</uuid>") + len("</uuid>")
    xml = (xml[:start] + xml[end:]).replace(f"<name>{STOPPED}</name>", f"<name>{name}</name>")
    xml = xml.replace("<bootloader>pygrub</bootloader>", "")
    xml = xml.replace("</os>", "<kernel>/vmlinuz</kernel><initrd>/initrd.img</initrd></os>")
    defined = host.shell._connection.defineXML(xml)  # type: ignore[attr-defined]
    try:
        record = xen.run(xen.scenario("upgrade: {what: kernel}\n", test_up=LOOK), name)
        assert verdict(record) is Verdict.REJECTED
        assert "kernel" in reason(record)
        assert record.facts.trouble is not None
        assert "pvgrub" in record.facts.trouble.hint
    finally:
        defined.undefine()


def test_a_thick_volume_is_the_last_resort_and_the_report_says_what_it_costs(
    host: Host, mark: Mark, left: None
) -> None:
    shell, path = host.shell.host, "/dev/vg0/sbthick"
    host.run("lvcreate -q -y -W n -L 32M -n sbthick vg0 2>/dev/null")
    try:
        host.run(f"dd if=/dev/urandom of={path} bs=1M count=32 conv=fsync status=none")
        disk = host_disks.inspect(shell, "xvda", path, "block", soon())
        before = host.run(f"sha256sum <{path}")
        made = host_disks.HostDisks(shell).make(GUEST, True, [disk], mark, soon())
        (clone,) = made.disks
        assert made.method == "thick snapshot"
        assert "twice" in made.warnings[0]
        host.run(f"dd if=/dev/zero of={path} bs=1M count=4 conv=fsync status=none")
        assert host.run(f"sha256sum <{clone.overlay}") == before
        assert host.run(f"sha256sum <{path}") != before
        assert host_disks.remove(shell, mark.run, soon()) == (f"volume vg0/{clone.overlay.name}",)
    finally:
        host_disks.remove(shell, mark.run, soon())
        host.run("lvremove -q -y vg0/sbthick")
