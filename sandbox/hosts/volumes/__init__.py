"""Where the clone's disks come from: exports of the source (read-only) and overlays on them.

The overlay of every clone stands on an NBD export, never on the source's file itself: the
hypervisor thus neither locks nor re-labels the source's image, and a stopped guest can be
started while its clone runs.

Exporters only create. What they create is ended by :func:`sandbox.clone.reaper.remove_run`, so that
there is one way down for a run that ends well, one that is interrupted and one that was killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sandbox.core.deadline import Deadline
from sandbox.core.records import Disk
from sandbox.core.store import RunFolder
from sandbox.hosts.drivers import Export, ExportsDisks, SourceDomain
from sandbox.hosts.drivers.clone_devices import CloneDisk


@dataclass(frozen=True)
class MadeDisks:
    """A clone's disks, and what was done for them."""

    disks: tuple[CloneDisk, ...]
    method: str
    consistency: str
    paused_ms: float = 0.0  # how long the source stood still
    warnings: tuple[str, ...] = ()  # what it costs production
    allocated: int = 0  # bytes
    controls: tuple[CloneDisk, ...] = ()  # copies of them for a control


class Exporter(Protocol):
    """Serves a source's disks as they were at one instant."""

    method: str
    consistency: str

    def export(
        self, disks: Sequence[Disk], folder: RunFolder, deadline: Deadline
    ) -> tuple[Export, ...]:
        """Exports on unix sockets in the run's clone folder, in the order of ``disks``."""


class BackupExporter:
    """A running guest's disks, frozen at one instant by the hypervisor's backup job."""

    method = "backup export"
    # All disks at the same instant, as after a power cut; the guest does not pause.
    consistency = "crash-consistent"

    def __init__(self, hypervisor: ExportsDisks, source: SourceDomain) -> None:
        self._hypervisor = hypervisor
        self._source = source

    def export(
        self, disks: Sequence[Disk], folder: RunFolder, deadline: Deadline
    ) -> tuple[Export, ...]:
        folder.note(source=self._source.name)  # whose job a reaper has to end
        return self._hypervisor.export_running(self._source, disks, folder.clone, deadline)
