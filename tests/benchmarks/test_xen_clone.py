"""On Xen, in the lab or on SANDBOX_XEN_URI: a clone against the same by hand and against a full
copy, clones of small and large volumes, and what a clone costs production's own writes."""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from table import Measurement, Results

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "vm"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "xen"))

from xenlab import GUEST, Administrator, Host, administrator, archive, host

from sandbox.clone import CloneOrder, create_clone
from sandbox.deadline import Deadline
from sandbox.guest import Guest
from sandbox.hypervisors import Mark
from sandbox.hypervisors.clone_xml import macs
from sandbox.network import names
from sandbox.reach import find
from sandbox.reaper import remove_run
from sandbox.records import Disk
from sandbox.settings import Settings
from sandbox.source import Source, guest_source
from sandbox.ssh import Login
from sandbox.store import RunFolder, Store, this_process
from sandbox.volumes.host_disks import HostDisks, remove

__all__ = ["administrator", "archive", "host"]

pytestmark = [pytest.mark.benchmark, pytest.mark.xen]

ROUNDS = 5
SIZES = {"1 GiB": 1 << 30, "200 GiB": 200 << 30}
HAND = "sbbyhand"
WRITES = 200


def soon() -> Deadline:
    return Deadline(1800, "a benchmark on Xen")


def a_mark() -> Mark:
    return Mark(f"20260101-000000-{os.urandom(3).hex()}", this_process(), int(time.time()) + 3600)


@pytest.fixture
def volumes(host: Host) -> Iterator[dict[str, Disk]]:
    """Two thin volumes; the large one is larger than its pool, as thin ones may be."""
    made = {}
    for size, count in SIZES.items():
        name = f"sbbench{count >> 30}"
        host.run(f"lvcreate -q -y -V {count}b --thinpool vg0/thin -n {name} 2>/dev/null")
        made[size] = Disk(
            target="xvda", format="raw", path=f"/dev/vg0/{name}", size=count, store="lvm"
        )
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
                HostDisks(host.shell.host).make(GUEST, False, [volumes[size]], mark, soon())
                times[size].append(time.monotonic() - started)
            finally:
                remove(host.shell.host, mark.run, soon())
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


def test_a_clone_against_the_same_by_hand(results: Results, host: Host, tmp_path: Path) -> None:
    """From the running guest to a clone that answers by SSH."""
    source = guest_source(host.shell, GUEST, soon())
    assert source.running
    seconds: dict[str, float] = {}
    for way, clone in (("by hand", by_hand), ("ours", ours)):
        started = time.monotonic()
        clone(host, source, tmp_path)
        seconds[way] = time.monotonic() - started
    copied = time.monotonic()
    host.run(
        "lvcreate -q -y -V 2G --thinpool vg0/thin -n sbcopy 2>/dev/null; "
        "dd if=/dev/vg0/web01-root of=/dev/vg0/sbcopy bs=4M conv=fsync status=none; "
        "lvremove -q -y vg0/sbcopy"
    )
    copy = {"full copy of one disk": time.monotonic() - copied}
    results.add(
        Measurement(
            name="xen-by-hand",
            what="a clone up to SSH: ours against lvcreate and xl create by hand",
            ratio=seconds["ours"] / seconds["by hand"],
            most=1.15,
            seconds=seconds | copy,
        )
    )


def by_hand(host: Host, source: Source, folder: Path) -> None:
    """The least that a person does, who trusts that all goes well: no gate, no console log."""
    mac = macs(source.xml)[0]
    lines = [
        f'name = "{HAND}"',
        "memory = 512",
        'bootloader = "pygrub"',
        f'vif = ["mac={mac},bridge={HAND}"]',
        f'disk = ["phy:/dev/vg0/{HAND}a,xvda,w", "phy:/dev/vg0/{HAND}b,xvdb,w"]',
    ]
    host.run(
        f"ip link add {HAND} type bridge; ip link set {HAND} up; "
        f"lvcreate -q -s -kn -n {HAND}a vg0/web01-root; "
        f"lvcreate -q -s -kn -n {HAND}b vg0/web01-data; "
        f"printf '%s\\n' {' '.join(repr(line) for line in lines)} >/run/{HAND}.cfg; "
        f"xl create -q /run/{HAND}.cfg"
    )
    try:
        wait = soon()
        while not find(host.shell.host, [mac], HAND, 22, lambda: (), wait, 0):
            wait.sleep(0.5)
    finally:
        host.run(f"xl destroy {HAND}; ip link del {HAND}; rm /run/{HAND}.cfg", check=False)
        host.run(f"sleep 5; lvremove -q -y vg0/{HAND}a vg0/{HAND}b")


def ours(host: Host, source: Source, folder: Path) -> None:
    store = Store(Settings(state=Path(f"/tmp/sbxb-{os.getpid()}")))
    run = store.create()
    mark = Mark(run.id, this_process(), int(time.time()) + 3600, str(run.clone))
    order = CloneOrder(source, mark, Login("root", host.key), inject=False, accelerated=False)
    try:
        enter(host, order, run)
    finally:
        assert not remove_run(host.shell, run).failed


def enter(host: Host, order: CloneOrder, run: RunFolder) -> None:
    clone = create_clone(host.shell, order, run, soon())
    assert clone.entrance.bridge == names(run.id).bridge
    wait = soon()
    while not find(
        host.shell.host, clone.entrance.macs, clone.entrance.bridge, 22, lambda: (), wait, 0
    ):
        wait.sleep(0.5)
    Guest(host.shell, clone.entrance, order.login, run.clone, run.register).connection.close()


def test_what_a_clone_costs_productions_writes(
    results: Results, host: Host, administrator: Administrator
) -> None:
    """Each write is flushed; the disk's blocks exist, as those of a database do."""
    data = next(d for d in guest_source(host.shell, GUEST, soon()).disks if d.target == "xvda")
    mark = a_mark()

    def writes() -> float:
        script = f"dd if=/dev/zero of=/root/sbtest bs=4k count={WRITES} oflag=dsync conv=notrunc"
        said = administrator.inside(f"{script} 2>&1").stdout
        found = re.search(r"([0-9.]+) s,", said)
        assert found, said
        return float(found.group(1)) / WRITES

    writes()
    seconds = {"before": writes()}
    try:
        HostDisks(host.shell.host).make(GUEST, True, [data], mark, soon())
        seconds["first writes with a clone"] = writes()
        seconds["with a clone"] = writes()
    finally:
        remove(host.shell.host, mark.run, soon())
    seconds["after"] = writes()
    administrator.inside("rm /root/sbtest")
    results.add(
        Measurement(
            name="xen-production-writes",
            what="production's flushed 4 KiB writes: while it is cloned against before",
            ratio=seconds["first writes with a clone"] / seconds["before"],
            seconds=seconds,
            note="a first write to a block that is shared with a snapshot gets a block of its own",
        )
    )
