"""Hypervisor drivers behind one small Protocol; chosen by name from :func:`driver_for`.

A driver never decides anything: plan.py does. It looks things up, starts what it is given,
and removes only what carries our mark.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from sandbox.core.deadline import Deadline
from sandbox.core.errors import RequestError
from sandbox.core.records import Disk
from sandbox.core.store import RunFolder
from sandbox.hosts.transport import Host

if TYPE_CHECKING:
    from sandbox.hosts.drivers.clone_xml import CloneSpec, CloneXml


@dataclass(frozen=True)
class Mark:
    """What everything that we create carries, so that a reaper knows whose it is."""

    run: str
    owner: str  # "pid:start-time:boot-id" of the process that answers for it
    deadline: int  # Unix time after which no run still needs it
    folder: str = ""  # the clone's files: says which state folder the run belongs to


@dataclass(frozen=True)
class SourceDomain:
    """A guest as the hypervisor describes it."""

    name: str
    uuid: str
    xml: str  # live XML when running, else the inactive one
    running: bool


@dataclass(frozen=True)
class Export:
    """One disk of the source, frozen at an instant, readable over NBD on a unix socket."""

    target: str
    socket: Path
    export: str
    size: int  # bytes


@dataclass(frozen=True)
class Vitals:
    """What proves that a source was left alone: compared before and after a run."""

    running: bool
    xml: str
    chain: tuple[str, ...]  # the disks' image files as the hypervisor has them open
    instance: str  # changes when the guest is started again: domain id
    cpu_seconds: float
    files: tuple[tuple[str, int, int, int], ...] = ()  # path, inode, mtime in ns, size


class Hypervisor(Protocol):
    """One host's hypervisor, over one connection."""

    uri: str
    kind: str  # "qemu" | "xen"
    host: Host  # where its storage and bridges are

    def close(self) -> None: ...

    def version(self) -> str:
        """For people: "QEMU 7.2.22, libvirt 9.0.0"."""

    def guests(self) -> tuple[str, ...]:
        """Names of all domains that are not ours."""

    def lookup(self, name: str) -> SourceDomain:
        """Raises :class:`RequestError` for an unknown guest, naming the nearest one."""

    def vitals(self, source: SourceDomain) -> Vitals:
        """Without the files' facts, which are not the hypervisor's."""

    def free_memory(self) -> int:
        """Bytes that a new domain may take."""

    def derive(self, source_xml: str, spec: CloneSpec) -> CloneXml:
        """The clone's definition from the source's; pure."""

    def start(self, xml: str, deadline: Deadline) -> None:
        """Start a throwaway domain that vanishes when it is destroyed."""

    def state(self, name: str) -> str:
        """ "running", "paused", "crashed", "restarting" (by the hypervisor, for a moment), "off"
        (destroyed or powered off)."""

    def destroy(self, name: str, run: str) -> bool:
        """Destroy our domain; false when there was none; never touches one without our mark."""

    def follow_console(self, name: str, log: Path, folder: RunFolder) -> None:
        """See to it that what a clone says on its console is written to ``log``."""

    def screenshot(self, name: str) -> bytes | None:
        """The guest's screen as PNG; None where the guest or the hypervisor has none."""

    def create_network(self, xml: str) -> None: ...

    def destroy_network(self, name: str, run: str) -> bool: ...

    def leases(self, network: str) -> tuple[tuple[str, str], ...]:
        """(MAC, address) of the DHCP leases on one of our networks."""

    def marked_domains(self) -> tuple[tuple[str, Mark], ...]: ...

    def marked_networks(self) -> tuple[tuple[str, Mark], ...]: ...


@runtime_checkable
class ExportsDisks(Protocol):
    """A hypervisor that serves a running guest's disks as they were at one instant."""

    def export_running(
        self, source: SourceDomain, disks: Sequence[Disk], folder: Path, deadline: Deadline
    ) -> tuple[Export, ...]:
        """Freeze a running guest's disks at one instant and serve them until ended."""

    def export_in_use(self, source: SourceDomain) -> str:
        """Why this running guest's disks cannot be exported now ("" when they can)."""

    def end_export(self, source: str, folder: Path) -> bool:
        """End an export whose socket lies in ``folder``; false when there was none."""


def unknown_guest(name: str, known: Sequence[str], uri: str) -> RequestError:
    """The error of every driver for a guest that is not there."""
    near = difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(known[:10]) or "none"
    return RequestError(
        f"no guest {name!r} on {uri.partition('?')[0]}", f"{hint}guests there: {listed}"
    )


def driver_for(uri: str, deadline: Deadline) -> Hypervisor:
    """Connect with the driver that the URI's scheme names."""
    scheme, _, transport = uri.partition(":")[0].partition("+")
    if scheme == "qemu" and transport != "ssh":
        from sandbox.hosts.drivers.libvirt_qemu import LibvirtQemu

        return LibvirtQemu.connect(uri, deadline)
    if scheme == "xen":
        from sandbox.hosts.drivers.libvirt_xen import LibvirtXen

        return LibvirtXen.connect(uri, deadline)
    raise RequestError(
        f"no driver for the hypervisor URI {uri!r}",
        "supported: qemu:///system, xen:///system and xen+ssh://root@HOST/system (QEMU is driven "
        "on this machine only: its clones' disks are made here)",
    )
