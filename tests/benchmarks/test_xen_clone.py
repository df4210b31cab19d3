"""On Xen, in the lab or on SANDBOX_XEN_URI: a clone against the same by hand, its disks against a
full copy of them, and those of a large volume against those of a small one."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.clone.create import CloneOrder, create_clone
from sandbox.clone.discovery import find
from sandbox.clone.guest import Guest
from sandbox.clone.reaper import remove_run
from sandbox.clone.ssh import GuestLogin
from sandbox.core.records import Disk
from sandbox.core.settings import Settings
from sandbox.core.store import RunFolder, Store, this_process
from sandbox.hosts.drivers import Mark
from sandbox.hosts.drivers.clone_xml import macs, memory_of
from sandbox.hosts.source import Source, guest_source
from sandbox.hosts.volumes.host_disks import HostDisks, remove
from tests.support.benchmarks.table import Measurement, Results
from tests.support.waiting import soon
from tests.support.xen.xenlab import GUEST, Host, host

__all__ = ["host"]

pytestmark = [pytest.mark.benchmark, pytest.mark.xen]

ROUNDS = 5
SIZES = {"1 GiB": 1 << 30, "200 GiB": 200 << 30}
HAND = "sbbyhand"
OURS, BY_HAND = "ours", "by hand"
TURNS = (BY_HAND, OURS, OURS, BY_HAND)  # what warms up is of use to both


def a_mark() -> Mark:
    return Mark(f"20260101-000000-{os.urandom(3).hex()}", this_process(), int(time.time()) + 3600)


@pytest.fixture
def volumes(host: Host) -> Iterator[dict[str, Disk]]:
    """Two thin volumes; the large one is larger than its pool, as thin ones may be."""
    beside, made = host.volume(host.disks(GUEST)[0]), {}
    pool = f"{beside.group}/{beside.pool}"
    for size, count in SIZES.items():
        name = f"sbbench{count >> 30}"
        host.run(f"lvcreate -q -y -V {count}b --thinpool {pool} -n {name} 2>/dev/null")
        path = f"/dev/{beside.group}/{name}"
        made[size] = Disk(target="xvda", format="raw", path=path, size=count, store="lvm")
    yield made
    for disk in made.values():
        host.run(f"lvremove -q -y {disk.path}")


def test_a_large_volume_is_cloned_like_a_small_one(
    results: Results, host: Host, volumes: dict[str, Disk]
) -> None:
    times: dict[str, list[float]] = {size: [] for size in volumes}
    for number in range(ROUNDS):
        for size in sorted(volumes, reverse=bool(number % 2)):
            mark, started = a_mark(), time.monotonic()
            try:
                HostDisks(host.shell.host).make(GUEST, False, [volumes[size]], mark, soon(1800))
                times[size].append(time.monotonic() - started)
            finally:
                remove(host.shell.host, mark.run, soon(1800))
    seconds = {size: statistics.median(found) for size, found in times.items()}
    small, large = seconds.values()
    results.add(
        Measurement(
            name="xen-volume-size",
            what="a thin snapshot: 200 GiB against 1 GiB",
            ratio=large / small,
            most=1.5,
            seconds=seconds,
            note=f"medians of {ROUNDS}, by turns",
        )
    )


def test_clones_disks_against_a_full_copy(results: Results, host: Host) -> None:
    """All disks of the running guest; the copy is the least that would do: dd, of a guest that
    ought not to write meanwhile."""
    source = guest_source(host.shell, GUEST, soon(1800))
    times: dict[str, list[float]] = {"snapshots": [], "full copy": []}
    for way in ("snapshots", "full copy", "snapshots"):
        started = time.monotonic()
        if way == "full copy":
            copy_all(host, source.disks)
            times[way].append(time.monotonic() - started)
            host.run("; ".join(f"lvremove -q -y {path}" for path in copies(host, source.disks)))
            continue
        mark = a_mark()
        try:
            HostDisks(host.shell.host).make(GUEST, True, source.disks, mark, soon(1800))
            times[way].append(time.monotonic() - started)
        finally:
            remove(host.shell.host, mark.run, soon(1800))
    seconds = {way: statistics.median(found) for way, found in times.items()}
    size = sum(disk.size for disk in source.disks)
    results.add(
        Measurement(
            name="xen-full-copy",
            what="a full copy of all disks : our thin snapshots of them",
            ratio=seconds["full copy"] / seconds["snapshots"],
            least=1.0,
            seconds=seconds,
            allocated={"full copy": size, "snapshots": 0},
            note=f"{len(source.disks)} disks, {size >> 20} MiB; the copy's time grows with them",
        )
    )


def copies(host: Host, disks: tuple[Disk, ...]) -> list[str]:
    return [f"/dev/{host.volume(disk).group}/sbcopy-{disk.target}" for disk in disks]


def copy_all(host: Host, disks: tuple[Disk, ...]) -> None:
    script = []
    for disk, copy in zip(disks, copies(host, disks), strict=True):
        volume = host.volume(disk)
        pool = f"{volume.group}/{volume.pool}"
        name = copy.rpartition("/")[2]
        script += [
            f"lvcreate -q -y -V {disk.size}b --thinpool {pool} -n {name} 2>/dev/null",
            f"dd if={disk.path} of={copy} bs=4M conv=fsync status=none",
        ]
    host.shell.host.run(["sh", "-ec", "\n".join(script)], soon(1800))


def test_a_clone_against_the_same_by_hand(results: Results, host: Host) -> None:
    """From the running guest to a clone that answers by SSH; without what removes it again."""
    source = guest_source(host.shell, GUEST, soon(1800))
    assert source.running
    times: dict[str, list[float]] = {BY_HAND: [], OURS: []}
    for way in TURNS:
        times[way].append((ours if way == OURS else by_hand)(host, source))
    seconds = {way: statistics.mean(found) for way, found in times.items()}
    each = ", ".join(f"{w} {' '.join(f'{t:.0f}' for t in found)} s" for w, found in times.items())
    results.add(
        Measurement(
            name="xen-by-hand",
            what="a clone up to SSH: ours against lvcreate and xl create by hand",
            ratio=seconds[OURS] / seconds[BY_HAND],
            most=1.15,
            seconds=seconds,
            note=f"means of {len(TURNS) // 2}, by turns ({each})",
        )
    )


def by_hand(host: Host, source: Source) -> float:
    """The least that a person does, who trusts that all goes well: no gate, no console log."""
    mac = macs(source.xml)[0]
    groups = [host.volume(disk).group for disk in source.disks]
    made = [f"/dev/{g}/{HAND}-{d.target}" for g, d in zip(groups, source.disks, strict=True)]
    targets = zip(made, source.disks, strict=True)
    drives = ", ".join(f'"phy:{path},{disk.target},w"' for path, disk in targets)
    lines = [
        f'name = "{HAND}"',
        f"memory = {memory_of(source.xml) >> 20}",
        'bootloader = "pygrub"',
        f'vif = ["mac={mac},bridge={HAND}"]',
        f"disk = [{drives}]",
    ]
    script = [
        f"ip link add {HAND} type bridge; ip link set {HAND} up",
        *(
            f"lvcreate -q -s -kn -n {path.rpartition('/')[2]} {disk.path}"
            for path, disk in zip(made, source.disks, strict=True)
        ),
        f"printf '%s\\n' {' '.join(repr(line) for line in lines)} >/run/{HAND}.cfg",
        f"xl create -q /run/{HAND}.cfg",
    ]
    started = time.monotonic()
    try:
        host.run("; ".join(script))
        wait_for_ssh(host, (mac,), HAND)
        return time.monotonic() - started
    finally:
        host.run(f"xl destroy {HAND}; ip link del {HAND}; rm /run/{HAND}.cfg", check=False)
        for path in made:  # Xen lets go of a disk in its own time
            host.run(f"for i in $(seq 60); do lvremove -q -y {path} && break; sleep 1; done")


def ours(host: Host, source: Source) -> float:
    store = Store(Settings(state=Path(f"/tmp/sbxb-{os.getpid()}")))
    run = store.create()
    mark = Mark(run.id, this_process(), int(time.time()) + 3600, str(run.clone))
    order = CloneOrder(source, mark, GuestLogin("root", host.key), inject=False, accelerated=False)
    started = time.monotonic()
    try:
        return enter(host, order, run, started)
    finally:
        reaped = remove_run(host.shell, run)
        shutil.rmtree(run.artifacts.parent.parent)
        assert not reaped.failed


def enter(host: Host, order: CloneOrder, run: RunFolder, started: float) -> float:
    clone = create_clone(host.shell, order, run, soon(1800))
    wait_for_ssh(host, clone.entrance.macs, clone.entrance.bridge)
    seconds = time.monotonic() - started
    Guest(host.shell, clone.entrance, order.login, run.clone, run.register).connection.close()
    return seconds


def wait_for_ssh(host: Host, addresses: tuple[str, ...], bridge: str) -> None:
    wait = soon(1800)
    while not find(host.shell.host, addresses, bridge, 22, lambda: (), wait, 0):
        wait.sleep(0.5)
