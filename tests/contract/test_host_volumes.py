"""What every clone of a Xen guest's image files keeps to, with QEMU's own tools on real files: a
read-only export with an overlay where blocks cannot be shared, a copy that shares them where they
can. (Volumes are in tests/xen: a thin pool needs the device mapper.)
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest
from test_volumes import FORMATS as ALL_FORMATS
from test_volumes import NEW, SIZE, facts, qemu_io, raw_copy, same, source_image

from sandbox.deadline import Deadline
from sandbox.errors import RequestError
from sandbox.host import LocalHost
from sandbox.hypervisors import Mark
from sandbox.hypervisors.clone_devices import CloneDisk
from sandbox.process import run
from sandbox.records import Disk
from sandbox.store import this_process
from sandbox.volumes import MadeDisks, host_disks
from sandbox.volumes.host_disks import PLACE, HostDisks

RUN = "20260102-030405-abcdef"
MARK = Mark(RUN, this_process(), 0, "/nowhere")
FORMATS = ("raw", "qcow2")
assert set(FORMATS) <= set(ALL_FORMATS)


def soon() -> Deadline:
    return Deadline(60, "test")


@dataclass
class Images:
    """Two image files of a guest, on a file system of this machine's."""

    folder: Path
    shares_blocks: bool
    format: str
    disks: list[Disk] = field(default_factory=list)
    at_the_instant: list[Path] = field(default_factory=list)  # raw copies

    def add(self, target: str, name: str) -> Path:
        path = source_image(self.folder, self.format, name)
        self.disks.append(host_disks.inspect(LocalHost(), target, str(path), self.format, soon()))
        self.at_the_instant.append(raw_copy(self.folder, self.format, path))
        return path

    def make(self) -> MadeDisks:
        return HostDisks(LocalHost(), room=0).make("web01", False, self.disks, MARK, soon())

    def remove(self) -> tuple[str, ...]:
        return host_disks.remove(LocalHost(), RUN, soon())


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
    """Every way to clone a file: add a line here for a new one."""
    kind, format = request.param
    monkeypatch.setattr(host_disks, "FOLDER", PurePosixPath(folder / "host-clones"))
    place: Path = request.getfixturevalue(kind)
    if kind == "without_sharing":
        run(["mount", "-t", "tmpfs", "sbtest", place], soon())
    made = Images(place, kind == "btrfs", format)
    made.add("xvda", "first")
    made.add("xvdb", "second")
    try:
        yield made
    finally:
        made.remove()
        if kind == "without_sharing":
            run(["umount", place], soon())


def opened(disk: CloneDisk) -> tuple[str, Path]:
    return disk.format, disk.overlay


def used(folder: Path) -> int:
    os.sync()
    facts = os.statvfs(folder)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize


def test_the_facts_of_a_disk(images: Images) -> None:
    for disk in images.disks:
        assert (disk.size, disk.format, disk.store) == (SIZE, images.format, "file")


def test_a_clone_has_the_sources_bytes_and_its_writes_stay_in_it(images: Images) -> None:
    made = images.make()
    assert [disk.target for disk in made.disks] == ["xvda", "xvdb"]
    assert (made.consistency, made.paused_ms) == ("clean", 0)
    method = "reflink copy" if images.shares_blocks else "read-only export"
    assert made.method == method
    for clone, source, copy in zip(made.disks, images.disks, images.at_the_instant, strict=True):
        assert same(opened(clone), ("raw", copy))
        qemu_io(clone.format, clone.overlay, f"write -P {NEW} 0 64k")
        assert not same(opened(clone), ("raw", copy))
        assert same((source.format, source.path), ("raw", copy)), "it reached the source"


def test_a_clone_takes_next_to_nothing(images: Images) -> None:
    with Path(images.disks[0].path).open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(os.urandom(16 << 20))  # else there would be nothing to share
    before = used(images.folder)
    made = images.make()
    assert used(images.folder) - before < 2 << 20
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
    images.make()
    qemu_io(images.format, images.disks[0].path, f"write -P {NEW} 0 64k")  # takes QEMU's locks


def test_nothing_is_left_of_a_clone(images: Images) -> None:
    before = {path.name for path in images.folder.iterdir()}
    made = images.make()
    places = {disk.overlay.parent for disk in made.disks}
    assert places == {images.folder / PLACE / RUN}
    if not images.shares_blocks:
        assert len(servers()) == 2
    removed = images.remove()
    assert {f"folder {place}" for place in places} < set(removed)
    assert {path.name for path in images.folder.iterdir()} == before
    assert servers() == []
    assert images.remove() == ()


def servers() -> list[bytes]:
    """Command lines of the servers of our run; of one that has ended it is empty."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            found.append(path.read_bytes())
    return [line for line in found if line.startswith(b"qemu-nbd") and RUN.encode() in line]


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
