"""Where clones have their disks: one storage for each kind of hypervisor, from one registry.

A storage makes the disks of a clone from its source's, tells while the clone lives whether they
endanger production, and removes them. What stands above asks the storage, never for the kind.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sandbox.core.deadline import Deadline
from sandbox.core.errors import RequestError
from sandbox.core.process import run
from sandbox.core.records import Disk
from sandbox.core.store import RunFolder
from sandbox.hosts.drivers import Export, ExportsDisks, Hypervisor, Mark, SourceDomain
from sandbox.hosts.drivers.clone_devices import CloneDisk
from sandbox.hosts.volumes import BackupExporter, Exporter, MadeDisks, host_disks, host_space, lvm
from sandbox.hosts.volumes.danger import Danger, disk_danger
from sandbox.hosts.volumes.images import allocated, create_overlay, make_folder
from sandbox.hosts.volumes.readonly_export import ReadonlyExporter

if TYPE_CHECKING:
    from sandbox.hosts.source import Source

FileFacts = tuple[tuple[str, int, int, int], ...]  # path, inode, modification time, size
_FACTS_SECONDS, _LIST_SECONDS = 60.0, 60.0


class Storage(Protocol):
    """``local``: the clones' disks are files on this machine, so that images can be rehearsed and
    a key can be written into a clone's disk, and this machine's disk has to be watched."""

    local: bool

    def inspect(self, target: str, path: str, format: str, block: bool, deadline: Deadline) -> Disk:
        """The facts of one disk as the guest's XML states it; the content is not probed. ``block``:
        it is a device. Raises :class:`RequestError` for a disk that cannot be cloned."""

    def file_facts(self, disks: Sequence[Disk]) -> FileFacts:
        """Of the disks that are files: what proves that they were left alone."""

    def in_use(self, domain: SourceDomain) -> str:
        """Why a running guest's disks cannot be cloned now; "" when they can."""

    def end_export(self, source: str, folder: Path) -> bool:
        """End the export of a guest's disks to a clone's folder; false when there was none."""

    def make(
        self, source: Source, folder: RunFolder, mark: Mark, deadline: Deadline, *, control: bool
    ) -> MadeDisks:
        """The clone's disks, all of one instant. ``control``: copies for a control as well, where
        the storage makes them in that instant."""

    def control_copies(self, made: MadeDisks, place: Path) -> tuple[CloneDisk, ...]:
        """The control's disks, of a clone that has not run; () where there cannot be any."""

    def danger(
        self, folder: RunFolder, deadline: Deadline, *, volumes: bool = True, files: bool = True
    ) -> Danger:
        """What one run's clone may do to production, or its storage to it: asked of its volumes,
        its files, or both."""

    def guard_interval(self, *, files: bool) -> float:
        """Seconds from one question for a danger to the next; ``files``: some disks are files."""

    def remove(self, run_id: str, deadline: Deadline) -> tuple[str, ...]:
        """Remove a run's disks that are not in its folder; says what."""

    def marked(self) -> tuple[tuple[str, Mark], ...]:
        """(name, mark) of all disks of ours that are not in a run's folder."""


@dataclass(frozen=True)
class LocalOverlays:
    """Overlays on this machine, on read-only exports of the source's disks."""

    hypervisor: Hypervisor
    local = True

    def inspect(self, target: str, path: str, format: str, block: bool, deadline: Deadline) -> Disk:
        if not Path(path).exists():
            raise RequestError(f"disk {target} is missing: {path}", "is its storage mounted?")
        shown = run(["qemu-img", "info", "-U", "--output=json", "-f", format, path], deadline)
        size = int(json.loads(shown.stdout)["virtual-size"])
        return Disk(target=target, format=format, path=path, size=size)

    def file_facts(self, disks: Sequence[Disk]) -> FileFacts:
        """The modification time in ns."""
        facts = []
        for path in (Path(name) for disk in disks for name in (disk.path, *disk.chain)):
            if path.is_file():
                stat = path.stat()
                facts.append((str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(facts)

    def make(
        self, source: Source, folder: RunFolder, mark: Mark, deadline: Deadline, *, control: bool
    ) -> MadeDisks:
        exporter: Exporter = ReadonlyExporter()
        if source.running and source.domain is not None:
            exporter = BackupExporter(self._exports(), source.domain)
        exports = exporter.export(source.disks, folder, deadline)
        disks = tuple(_overlay(export, folder.clone, deadline) for export in exports)
        taken = sum(allocated(disk.overlay) for disk in disks)
        return MadeDisks(disks, exporter.method, exporter.consistency, allocated=taken)

    def in_use(self, domain: SourceDomain) -> str:
        return self._exports().export_in_use(domain)

    def end_export(self, source: str, folder: Path) -> bool:
        return self._exports().end_export(source, folder)

    def _exports(self) -> ExportsDisks:
        assert isinstance(self.hypervisor, ExportsDisks), "the registry pairs them"
        return self.hypervisor

    def control_copies(self, made: MadeDisks, place: Path) -> tuple[CloneDisk, ...]:
        """Copies of the overlays: these stand on the same exports, and are nearly empty."""
        make_folder(place, 0o711)
        return tuple(
            replace(disk, overlay=Path(shutil.copy(disk.overlay, place / disk.overlay.name)))
            for disk in made.disks
        )

    def danger(
        self, folder: RunFolder, deadline: Deadline, *, volumes: bool = True, files: bool = True
    ) -> Danger:
        return Danger(disk_danger(folder.clone))

    def guard_interval(self, *, files: bool) -> float:
        return 1.0

    def remove(self, run_id: str, deadline: Deadline) -> tuple[str, ...]:
        return ()

    def marked(self) -> tuple[tuple[str, Mark], ...]:
        return ()


def _overlay(export: Export, folder: Path, deadline: Deadline) -> CloneDisk:
    path = folder / f"{export.target}.qcow2"
    create_overlay(export, path, deadline)
    return CloneDisk(export.target, path)


@dataclass(frozen=True)
class HostSnapshots:
    """Snapshots and copies that the host's own tools make beside the source's disks."""

    hypervisor: Hypervisor
    local = False

    def inspect(self, target: str, path: str, format: str, block: bool, deadline: Deadline) -> Disk:
        # libvirt makes a file of a device that a configuration of xl's names.
        block = block or path.startswith("/dev/")
        if block and format != "raw":
            raise RequestError(
                f"disk {target} is a {format} image on a block device",
                "a snapshot of it would be read as a raw disk; convert it: qemu-img convert",
            )
        stated = "block" if block else format
        return host_disks.inspect(self.hypervisor.host, target, path, stated, deadline)

    def file_facts(self, disks: Sequence[Disk]) -> FileFacts:
        """The modification time in s."""
        deadline = Deadline(_FACTS_SECONDS, "disk facts")
        return host_disks.file_facts(self.hypervisor.host, disks, deadline)

    def make(
        self, source: Source, folder: RunFolder, mark: Mark, deadline: Deadline, *, control: bool
    ) -> MadeDisks:
        return host_disks.HostDisks(self.hypervisor.host).make(
            source.name, source.running, source.disks, mark, deadline, control=control
        )

    def in_use(self, domain: SourceDomain) -> str:
        return ""  # a snapshot keeps no other from being made

    def end_export(self, source: str, folder: Path) -> bool:
        return False

    def control_copies(self, made: MadeDisks, place: Path) -> tuple[CloneDisk, ...]:
        return made.controls

    def danger(
        self, folder: RunFolder, deadline: Deadline, *, volumes: bool = True, files: bool = True
    ) -> Danger:
        host = self.hypervisor.host
        seen = lvm.survey(host, deadline) if volumes else lvm.Survey({}, ())
        full = seen.danger(folder.id)
        if files and not full:
            full = host_space.danger(host, host_disks.places_of(folder.id), deadline)
        return Danger(full, seen.overflow(folder.id))

    def guard_interval(self, *, files: bool) -> float:
        """A file system has no warning marks as a thin pool has, and no watcher but us."""
        return 5.0 if files else 15.0

    def remove(self, run_id: str, deadline: Deadline) -> tuple[str, ...]:
        return host_disks.remove(self.hypervisor.host, run_id, deadline)

    def marked(self) -> tuple[tuple[str, Mark], ...]:
        deadline = Deadline(_LIST_SECONDS, "listing our disks")
        return host_disks.marked(self.hypervisor.host, deadline)


_STORAGES: dict[str, Callable[[Hypervisor], Storage]] = {
    "qemu": LocalOverlays,
    "xen": HostSnapshots,
}


def storage_of(hypervisor: Hypervisor) -> Storage:
    """The storage of a hypervisor's clones."""
    return _STORAGES[hypervisor.kind](hypervisor)
