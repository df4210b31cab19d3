"""What every exporter keeps to: the source's bytes at one instant, and the source left alone."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import libvirt_qemu
import pytest

from sandbox.clone.reaper import remove_run
from sandbox.core.deadline import Deadline
from sandbox.core.errors import CommandFailed, HostError
from sandbox.core.process import run
from sandbox.core.records import Disk
from sandbox.core.store import RunFolder, Store, start_time
from sandbox.hosts.drivers import Export
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.volumes import BackupExporter, Exporter
from sandbox.hosts.volumes.images import FORMATS, allocated, create_overlay
from sandbox.hosts.volumes.readonly_export import ReadonlyExporter
from tests.support.guests.small_disks import make_image
from tests.support.hosts.labs import LibvirtLab
from tests.support.hosts.stores import NEW, OLD, SIZE
from tests.support.machine.processes import is_running


@dataclass
class World:
    """A source with two disks, the exporter for it, and hands that write to the source."""

    exporter: Exporter
    disks: tuple[Disk, ...]
    folder: RunFolder
    at_the_instant: tuple[Path, ...]  # raw copies
    write_to_source: Callable[[int, str], None]  # disk number, qemu-io command

    def export(self) -> tuple[Export, ...]:
        return self.exporter.export(self.disks, self.folder, Deadline(60, "export"))


def qemu_io(format: str, target: Path | str, *commands: str, check: bool = True) -> str:
    options = [word for command in commands for word in ("-c", command)]
    if all(command.startswith("read") for command in commands):
        options.append("-r")
    done = run(["qemu-io", "-f", format, *options, target], Deadline(60, "qemu-io"), check=check)
    return done.stdout + done.stderr


def write_pattern(format: str, path: Path) -> None:
    qemu_io(format, path, f"write -P {OLD} 1M 1M", f"write -P {OLD} 7M 64k")


def url(export: Export) -> str:
    return f"nbd+unix:///{export.export}?socket={export.socket}"


def same(left: tuple[str, Path | str], right: tuple[str, Path | str]) -> bool:
    argv = ["qemu-img", "compare", "-f", left[0], "-F", right[0], left[1], right[1]]
    return run(argv, Deadline(60, "qemu-img compare"), check=False).ok


def source_image(folder: Path, format: str, name: str) -> Path:
    path = make_image(folder / f"{name}.{format}", format, SIZE)
    write_pattern(format, path)
    return path


def raw_copy(folder: Path, format: str, path: Path) -> Path:
    copy = folder / f"{path.name}.instant"
    argv = ["qemu-img", "convert", "-f", format, "-O", "raw", str(path), str(copy)]
    run(argv, Deadline(60, "qemu-img convert"))
    return copy


@pytest.fixture
def run_folder(store: Store) -> Iterator[RunFolder]:
    made = store.create()
    yield made
    reaped = remove_run(FakeHypervisor(), made)
    assert reaped.failed == ()


def readonly_world(folder: Path, run_folder: RunFolder, format: str) -> World:
    paths = [source_image(folder, format, name) for name in ("first", "second")]
    disks = tuple(
        Disk(target=target, format=format, path=str(path), size=SIZE)
        for target, path in zip(("vda", "vdb"), paths, strict=True)
    )

    def write(number: int, command: str) -> None:
        qemu_io(format, paths[number], command)

    copies = tuple(raw_copy(folder, format, path) for path in paths)
    return World(ReadonlyExporter(), disks, run_folder, copies, write)


def backup_world(lab: LibvirtLab, run_folder: RunFolder) -> World:
    """A running domain; its own QEMU writes to the disks, as its guest would make it do."""
    folder = lab.folder
    paths = [make_image(folder / name, name.rpartition(".")[2]) for name in ("a.qcow2", "b.raw")]
    for path in paths:
        write_pattern(path.suffix[1:], path)
    copies = tuple(raw_copy(folder, path.suffix[1:], path) for path in paths)
    name = lab.guest(running=True, disks=tuple(paths))
    disks = tuple(
        Disk(target=target, format=path.suffix[1:], path=str(path), size=SIZE)
        for target, path in zip(("hda", "hdb"), paths, strict=True)
    )
    domain = lab.connection.lookupByName(name)

    def write(number: int, command: str) -> None:
        libvirt_qemu.qemuMonitorCommand(
            domain,
            f'qemu-io -d ide0-0-{number} "{command}"',
            libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP,
        )

    exporter = BackupExporter(lab.hypervisor, lab.hypervisor.lookup(name))
    return World(exporter, disks, run_folder, copies, write)


@pytest.fixture(params=[*FORMATS, "backup"])
def world(request: pytest.FixtureRequest, folder: Path, run_folder: RunFolder) -> Iterator[World]:
    """Every exporter, on every kind of source: add a line here for a new one."""
    if request.param != "backup":
        yield readonly_world(folder, run_folder, request.param)
        return
    made = backup_world(request.getfixturevalue("libvirt_lab"), run_folder)
    yield made


def test_the_bytes_are_the_sources(world: World) -> None:
    exports = world.export()
    assert [export.target for export in exports] == [disk.target for disk in world.disks]
    for export, copy in zip(exports, world.at_the_instant, strict=True):
        assert export.size == SIZE
        assert same(("raw", url(export)), ("raw", copy))


def test_an_overlay_takes_less_than_a_mebibyte_and_reads_as_the_source(world: World) -> None:
    for export, copy in zip(world.export(), world.at_the_instant, strict=True):
        overlay = world.folder.clone / f"{export.target}.qcow2"
        create_overlay(export, overlay, Deadline(20, "overlay"))
        assert allocated(overlay) < 1 << 20
        assert overlay.stat().st_mode & 0o777 == 0o600, "a clone's disk holds production's data"
        assert same(("qcow2", overlay), ("raw", copy))
        qemu_io("qcow2", overlay, f"write -P {NEW} 0 64k")
        assert not same(("qcow2", overlay), ("raw", copy))
        assert same(("raw", url(export)), ("raw", copy)), "the clone's write reached its source"


def test_nothing_can_be_written_through_an_export(world: World) -> None:
    export = world.export()[0]
    said = qemu_io("raw", url(export), f"write -P {NEW} 1M 64k", check=False)
    assert "wrote" not in said
    assert same(("raw", url(export)), ("raw", world.at_the_instant[0]))


def test_an_export_ends_with_its_run(world: World) -> None:
    exporter, exports = world.exporter, world.export()
    hypervisor = exporter._hypervisor if isinstance(exporter, BackupExporter) else FakeHypervisor()
    pids = [process.pid for process in world.folder.processes()]
    reaped = remove_run(hypervisor, world.folder)
    assert reaped.failed == ()
    assert not world.folder.clone.exists()
    for export in exports:
        said = run(["qemu-img", "info", url(export)], Deadline(20, "info"), check=False)
        assert not said.ok, "the export is still served"
    assert not any(is_running(pid) for pid in pids)
    world.write_to_source(0, f"write -P {NEW} 1M 64k")


def test_a_running_sources_later_writes_are_not_in_the_export(
    libvirt_lab: LibvirtLab, run_folder: RunFolder
) -> None:
    world = backup_world(libvirt_lab, run_folder)
    exports = world.export()
    world.write_to_source(0, f"write -P {NEW} 1M 1M")
    world.write_to_source(1, f"write -P {NEW} 7M 64k")
    for export, copy in zip(exports, world.at_the_instant, strict=True):
        assert same(("raw", url(export)), ("raw", copy)), "the instant has moved"
    remove_run(libvirt_lab.hypervisor, run_folder)
    libvirt_lab.power_off(libvirt_lab.made[0])
    said = qemu_io("qcow2", Path(world.disks[0].path), f"read -P {NEW} 1M 1M")
    assert "Pattern verification failed" not in said, "the source lost a write of its own"


def test_ending_a_run_twice_leaves_a_later_export_alone(
    libvirt_lab: LibvirtLab, run_folder: RunFolder, store: Store
) -> None:
    world = backup_world(libvirt_lab, run_folder)
    world.export()
    remove_run(libvirt_lab.hypervisor, run_folder)
    later = store.create()
    exporter = world.exporter
    assert isinstance(exporter, BackupExporter)
    export = exporter.export(world.disks, later, Deadline(60, "export"))[0]
    assert remove_run(libvirt_lab.hypervisor, run_folder).removed == ()
    assert same(("raw", url(export)), ("raw", world.at_the_instant[0]))
    assert remove_run(libvirt_lab.hypervisor, later).failed == ()


# -- images and stopped guests ----------------------------------------------------------------


def facts(path: Path) -> tuple[object, ...]:
    stat = path.stat()
    return (
        hashlib.sha256(path.read_bytes()).hexdigest(),
        *(stat.st_ino, stat.st_uid, stat.st_gid, stat.st_mode, stat.st_mtime_ns, stat.st_ctime_ns),
    )


@pytest.mark.parametrize("format", FORMATS)
def test_a_source_file_is_not_touched(folder: Path, run_folder: RunFolder, format: str) -> None:
    world = readonly_world(folder, run_folder, format)
    paths = [Path(disk.path) for disk in world.disks]
    for path in paths:
        path.chmod(0o640)
        shutil.chown(path, "nobody", "nogroup")
    before = [facts(path) for path in paths]
    for export in world.export():
        overlay = run_folder.clone / f"{export.target}.qcow2"
        create_overlay(export, overlay, Deadline(20, "overlay"))
        qemu_io("qcow2", overlay, f"write -P {NEW} 0 1M", f"read -P {OLD} 1M 1M")
    assert remove_run(FakeHypervisor(), run_folder).failed == ()
    assert [facts(path) for path in paths] == before


@pytest.mark.parametrize("format", FORMATS)
def test_the_source_can_be_started_while_it_is_exported(
    folder: Path, run_folder: RunFolder, format: str
) -> None:
    world = readonly_world(folder, run_folder, format)
    world.export()
    world.write_to_source(0, f"write -P {NEW} 0 64k")  # takes QEMU's locks, as the guest would


def test_an_image_that_is_open_for_writing_can_be_exported(
    folder: Path, run_folder: RunFolder
) -> None:
    """A guest that is started between the plan and the export does not stop it half-way."""
    world = readonly_world(folder, run_folder, "qcow2")
    with ExitStack() as undo:
        writer = undo.enter_context(
            subprocess.Popen(
                ["qemu-io", "-f", "qcow2", world.disks[0].path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        undo.callback(writer.kill)
        assert writer.stdin
        assert writer.stdout
        writer.stdin.write(b"read 0 512\n")
        writer.stdin.flush()
        assert b"read 512/512" in writer.stdout.readline(), "the writer does not have the image"
        assert same(("raw", url(world.export()[0])), ("raw", world.at_the_instant[0]))


def test_an_image_on_a_backing_file_locks_neither(folder: Path, run_folder: RunFolder) -> None:
    base = source_image(folder, "raw", "base")
    top = folder / "top.qcow2"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(top)]
    run(argv, Deadline(20, "qemu-img"))
    disk = Disk(target="vda", format="qcow2", path=str(top), size=SIZE)
    export = ReadonlyExporter().export((disk,), run_folder, Deadline(20, "export"))[0]
    assert same(("raw", url(export)), ("raw", base))
    qemu_io("qcow2", top, f"write -P {NEW} 0 64k")
    qemu_io("raw", base, f"write -P {NEW} 0 64k")


def test_a_stated_format_is_believed_and_never_probed(folder: Path, run_folder: RunFolder) -> None:
    """A raw disk into which its guest wrote a qcow2 header that names a file of the host."""
    secret = folder / "secret"
    secret.write_bytes(b"host secret".ljust(SIZE, b"\0"))
    disk_file = folder / "guest.raw"
    argv = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        str(secret),
        str(disk_file),
    ]
    run(argv, Deadline(20, "qemu-img"))
    size = disk_file.stat().st_size
    disk = Disk(target="vda", format="raw", path=str(disk_file), size=size)
    export = ReadonlyExporter().export((disk,), run_folder, Deadline(20, "export"))[0]
    assert same(("raw", url(export)), ("raw", disk_file))
    assert "host secret" not in qemu_io("raw", url(export), "read -v 0 4096")


@pytest.mark.parametrize(
    "name", ["a,b.raw", "a b.raw", "a=b,readonly=off.raw", "ä:b.raw", "-x.raw"]
)
def test_odd_file_names(folder: Path, run_folder: RunFolder, name: str) -> None:
    path = folder / name
    path.write_bytes(bytes([OLD]) * (1 << 20))
    disk = Disk(target="vda", format="raw", path=str(path), size=1 << 20)
    export = ReadonlyExporter().export((disk,), run_folder, Deadline(20, "export"))[0]
    assert "verification failed" not in qemu_io("raw", url(export), f"read -P {OLD} 0 1M")


def test_a_block_device_is_exported(folder: Path, run_folder: RunFolder) -> None:
    """As the disk of a stopped guest on a logical volume is."""
    path = source_image(folder, "raw", "volume")
    made = run(["losetup", "--find", "--show", path], Deadline(20, "losetup"))
    device = made.stdout.strip()
    try:
        disk = Disk(target="vda", format="raw", path=device, size=SIZE)
        export = ReadonlyExporter().export((disk,), run_folder, Deadline(20, "export"))[0]
        assert same(("raw", url(export)), ("raw", path))
        assert remove_run(FakeHypervisor(), run_folder).failed == ()
    finally:
        run(["losetup", "--detach", device], Deadline(20, "losetup"))


@pytest.mark.parametrize(
    ("content", "format"), [(None, "raw"), (b"no qcow2", "qcow2"), (b"no vhdx", "vhdx")]
)
def test_what_cannot_be_exported_says_why(
    folder: Path, run_folder: RunFolder, content: bytes | None, format: str
) -> None:
    path = folder / "broken"
    if content is not None:
        path.write_bytes(content.ljust(4096, b"\0"))
    disk = Disk(target="vda", format=format, path=str(path), size=4096)
    with pytest.raises(HostError, match=r"cannot be exported: .*qemu-nbd") as caught:
        ReadonlyExporter().export((disk,), run_folder, Deadline(20, "export"))
    assert str(path) in caught.value.message


def test_an_exporter_is_registered_before_it_can_be_forgotten(
    folder: Path, run_folder: RunFolder
) -> None:
    world = readonly_world(folder, run_folder, "raw")
    world.export()
    processes = run_folder.processes()
    assert [process.role for process in processes] == ["qemu-nbd", "qemu-nbd"]
    assert all(process.started == start_time(process.pid) for process in processes)


def test_overlays_cost_the_same_whatever_the_disks_size(
    folder: Path, run_folder: RunFolder
) -> None:
    taken, seconds = [], []
    for target, size in (("vda", 1 << 30), ("vdb", 1 << 40)):
        path = make_image(folder / f"{target}.raw", "raw", size)
        disk = Disk(target=target, format="raw", path=str(path), size=size)
        started = time.monotonic()
        export = ReadonlyExporter().export((disk,), run_folder, Deadline(20, "export"))[0]
        overlay = run_folder.clone / f"{target}.qcow2"
        create_overlay(export, overlay, Deadline(20, "overlay"))
        seconds.append(time.monotonic() - started)
        taken.append(allocated(overlay))
    assert max(taken) < 1 << 20
    assert max(seconds) < 5


def test_an_overlay_on_nothing_says_so(folder: Path) -> None:
    nowhere = Export("vda", folder / "no.sock", "vda", SIZE)
    with pytest.raises(CommandFailed, match=r"no\.sock"):
        create_overlay(nowhere, folder / "x.qcow2", Deadline(20, "overlay"))
