"""What every clone of a Xen guest's image files keeps to, with QEMU's own tools on real files: a
read-only export with an overlay where blocks cannot be shared, a copy that shares them where they
can. A Xen host keeps to the same, with its volumes too, in tests/xen: they need a device mapper.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from sandbox.core.errors import RequestError
from sandbox.core.process import run
from sandbox.hosts.transport import LocalHost
from sandbox.hosts.volumes import host_disks
from sandbox.hosts.volumes.host_disks import PLACE
from tests.contract.test_volumes import facts, qemu_io, same
from tests.support.hosts.stores import (
    EXPORT,
    NEW,
    REFLINK,
    RUN,
    SIZE,
    Images,
    expect_a_source_that_may_write,
    expect_faithful_clones,
    expect_to_leave_nothing,
    opened,
)
from tests.support.waiting import soon

FORMATS = ("raw", "qcow2")


@pytest.fixture
def without_sharing(folder: Path) -> Path:
    """A tmpfs shares no blocks, whatever the machine's own file system can do."""
    made = folder / "images"
    made.mkdir()
    return made


@pytest.fixture
def btrfs(folder: Path) -> Iterator[Path]:
    """A small btrfs on a loop device."""
    backing, made = folder / "btrfs", folder / "images"
    made.mkdir()
    with backing.open("wb") as file:
        file.truncate(256 << 20)
    run(["mkfs.btrfs", "--quiet", backing], soon())
    run(["mount", "-o", "loop", backing, made], soon())
    yield made
    run(["umount", made], soon())


@pytest.fixture(params=[(kind, f) for kind in ("without_sharing", "btrfs") for f in FORMATS])
def images(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Images]:
    """Every way to clone a file: add a line here for a new one; a Xen host's are in tests/xen."""
    kind, format = request.param
    monkeypatch.setattr(host_disks, "FOLDER", PurePosixPath(folder / "host-clones"))
    place: Path = request.getfixturevalue(kind)
    if kind == "without_sharing":
        run(["mount", "-t", "tmpfs", "sbtest", place], soon())
    made = Images(LocalHost(), place, format, REFLINK if kind == "btrfs" else EXPORT)
    made.add("xvda", "first")
    made.add("xvdb", "second")
    try:
        yield made
    finally:
        made.remove()
        if kind == "without_sharing":
            run(["umount", place], soon())


def test_the_facts_of_a_disk(images: Images) -> None:
    for disk in images.disks:
        assert (disk.size, disk.format, disk.store) == (SIZE, images.format, "file")


def test_a_clone_has_the_sources_bytes_and_its_writes_stay_in_it(images: Images) -> None:
    expect_faithful_clones(images)


def test_a_clone_takes_next_to_nothing(images: Images) -> None:
    with Path(images.disks[0].path).open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(os.urandom(16 << 20))  # else there would be nothing to share
    before = images.used()
    made = images.make()
    assert images.used() - before < 2 << 20
    assert made.allocated < 1 << 20


def test_a_source_file_is_not_touched(images: Images) -> None:
    paths = [Path(disk.path) for disk in images.disks]
    for path in paths:
        path.chmod(0o640)
        shutil.chown(path, "nobody", "nogroup")
    before = [facts(path) for path in paths]
    shown = host_disks.file_facts(LocalHost(), images.disks, soon())
    for clone in images.make().disks:
        qemu_io(clone.format, clone.overlay, f"write -P {NEW} 0 1M")
    images.remove()
    assert [facts(path) for path in paths] == before
    assert host_disks.file_facts(LocalHost(), images.disks, soon()) == shown


def test_the_source_can_be_started_meanwhile(images: Images) -> None:
    expect_a_source_that_may_write(images, images.make())


def test_nothing_is_left_of_a_clone(images: Images) -> None:
    before = images.left()
    made = images.make()
    places = {disk.overlay.parent for disk in made.disks}
    assert places == {images.folder / PLACE / RUN}
    assert images.left().count("/proc/") == (2 if images.method == EXPORT else 0)
    expect_to_leave_nothing(images, before)


@pytest.mark.parametrize("name", ["a b", "it's", "a,b=c", "100%", "a&b#c?d", "ä:x", '"', "-x"])
def test_a_file_may_have_any_name(images: Images, name: str) -> None:
    (images.folder / name).mkdir()
    path = images.folder / name / f"{name}.{images.format}"
    Path(images.disks[0].path).rename(path)
    images.disks[0] = images.disks[0].model_copy(update={"path": str(path)})
    made = images.make()
    assert same(opened(made.disks[0]), ("raw", images.at_the_instant[0]))


def test_a_long_path_is_no_hindrance(images: Images) -> None:
    """A socket's path may have no more than 107 bytes, the images' may."""
    deep = images.folder / "customers" / ("x" * 100)
    deep.mkdir(parents=True)
    path = Path(images.disks[0].path).rename(deep / "disk")
    images.disks[0] = images.disks[0].model_copy(update={"path": str(path)})
    assert same(opened(images.make().disks[0]), ("raw", images.at_the_instant[0]))


def test_an_image_on_a_base_with_a_relative_name(images: Images) -> None:
    """Relative to the original: a copy lies elsewhere."""
    base = Path(images.disks[0].path)
    top = images.folder / "top.qcow2"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", images.format, "-b", base.name, top]
    run(argv, soon(), cwd=images.folder)
    qemu_io("qcow2", top, f"write -P {NEW} 0 64k")
    images.disks = [host_disks.inspect(LocalHost(), "xvda", str(top), "qcow2", soon())]
    made = images.make()
    assert same(opened(made.disks[0]), ("qcow2", top))


@pytest.mark.parametrize(("content", "format"), [(None, "raw"), (b"no qcow2", "qcow2")])
def test_what_cannot_be_read_is_a_wrong_request(
    folder: Path, content: bytes | None, format: str
) -> None:
    path = folder / "broken"
    if content is not None:
        path.write_bytes(content.ljust(4096, b"\0"))
    with pytest.raises(RequestError, match=f"cannot be read as {format}") as caught:
        host_disks.inspect(LocalHost(), "xvda", str(path), format, soon())
    assert str(path) in caught.value.message
