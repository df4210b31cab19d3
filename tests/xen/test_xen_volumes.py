"""The contract of stores, kept on a real Xen host: thin and thick volumes, files that share their
blocks with their copies, and files that cannot.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.core.errors import RequestError
from sandbox.core.store import this_process
from sandbox.hosts.drivers import Mark
from sandbox.hosts.volumes import host_disks
from tests.support.hosts.stores import (
    EXPORT,
    MARK,
    REFLINK,
    SIZE,
    THICK,
    THIN,
    Images,
    Volumes,
    expect_a_source_that_may_write,
    expect_faithful_clones,
    expect_to_leave_nothing,
)
from tests.support.waiting import soon
from tests.support.xen.stubs import defined, pv_xml
from tests.support.xen.xenlab import GUEST, Host, images_folder

pytestmark = pytest.mark.xen

FORMAT = "qcow2"
FOLDER = "sbtest-volumes"
MEMORY = Path("/dev/shm")  # no file there ever shares blocks with another


@pytest.fixture(params=[THIN, THICK, REFLINK, EXPORT])
def images(request: pytest.FixtureRequest, host: Host) -> Iterator[Images]:
    """Every way to clone a disk on the host: add a line here for a new one."""
    yield from _made(request.param, host)


@pytest.fixture
def files(host: Host) -> Iterator[Images]:
    yield from _made(REFLINK, host)


def _made(method: str, host: Host) -> Iterator[Images]:
    there = host.shell.host
    folder = (images_folder(host) if method == REFLINK else MEMORY) / FOLDER
    if method in (THIN, THICK):
        volume = host.volume(host.smallest_disk(GUEST))
        pool = volume.pool if method == THIN else ""
        made: Images = Volumes(there, folder, "raw", method, group=volume.group, pool=pool)
    else:
        made = Images(there, folder, FORMAT, method)
    host.run(f"mkdir {folder}")
    try:
        made.add("xvda", "first")
        made.add("xvdb", "second")
        yield made
    finally:
        made.remove()
        made.remove_everything()
        host.run(f"rm -rf {folder}")


def test_a_clone_in_every_store(images: Images) -> None:
    """Its bytes, its writes and the source's, its space, and its end."""
    before = images.left()
    for disk in images.disks:
        store = "file" if images.is_file else "lvm"
        assert (disk.size, disk.format, disk.store) == (SIZE, images.format, store)
    if images.method == EXPORT:
        with pytest.raises(RequestError, match="file system without reflinks"):
            host_disks.HostDisks(images.host, room=0).make(
                "web01", True, images.disks, MARK, soon()
            )
    made = expect_faithful_clones(images)
    expect_a_source_that_may_write(images, made)
    expect_to_leave_nothing(images, before)


def test_a_running_guest_on_files_stands_still_for_the_copy(files: Images, host: Host) -> None:
    name = f"sbtest-paused-{os.urandom(3).hex()}"
    with defined(host, pv_xml(name, files.disks)) as domain:
        domain.create()
        made = host_disks.HostDisks(files.host).make(name, True, files.disks, MARK, soon())
        assert host.shell.state(name) == "running"
        assert made.consistency == "crash-consistent"
        assert made.paused_ms > 0
        for clone, copy in zip(made.disks, files.at_the_instant, strict=True):
            assert files.same((clone.format, clone.overlay), ("raw", copy))
        assert host_disks.remove(files.host, MARK.run, soon())


@pytest.fixture
def mark(state: Path) -> Mark:
    """Of a run that never was, but could have been."""
    run_id = f"20260101-000000-{os.urandom(3).hex()}"
    (state / "runs" / run_id).mkdir(parents=True)
    return Mark(run_id, this_process(), int(time.time()) + 3600, str(state / "clones" / run_id))


def test_the_disks_of_a_running_guest_are_its_own_at_the_instant(
    host: Host, mark: Mark, left: None
) -> None:
    """Production's second disk, small enough to be read whole; and its clone's, which is in use
    when it is to go: that is waited for."""
    there, data = host.shell.host, host.smallest_disk(GUEST)
    before = host.run(f"xl pause {GUEST}; sha256sum <{data.path}; :")
    try:
        made = host_disks.HostDisks(there).make(GUEST, False, [data], mark, soon())
    finally:
        host.run(f"xl unpause {GUEST}")
    (clone,) = made.disks
    try:
        assert host.run(f"sha256sum <{clone.overlay}") == before
        host.run(f"dd if=/dev/urandom of={clone.overlay} bs=1M count=4 conv=fsync status=none")
        assert host.run(f"sha256sum <{clone.overlay}") != before
        host.run(f"setsid sh -c 'sleep 12 <{clone.overlay}' >/dev/null 2>&1 </dev/null & sleep 1")
    finally:
        removed = host_disks.remove(there, mark.run, soon())
    assert removed == (f"volume {host.volume(data).group}/{clone.overlay.name}",)
