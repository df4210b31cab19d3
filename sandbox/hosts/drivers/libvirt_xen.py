"""libvirt's Xen driver (libxl): on this machine, or in dom0 of another over SSH.

What this driver of libvirt's lacks (snapshots, backup jobs, screenshots) is done by the host's
own tools: :mod:`sandbox.hosts.volumes.host_disks`.
"""

from __future__ import annotations

from pathlib import Path

import libvirt

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError, RequestError
from sandbox.core.store import RunFolder
from sandbox.hosts.drivers.bounded import bounded
from sandbox.hosts.drivers.clone_xml import CloneSpec, CloneXml, memory_of
from sandbox.hosts.drivers.libvirt_base import STATES, LibvirtBase, dotted, say, translated
from sandbox.hosts.drivers.xen_console import follow_console
from sandbox.hosts.drivers.xen_xml import guest_types, xen_clone_xml

_DESTROY_SECONDS = 60.0
_START_TRIES, _START_PAUSE = 3, 5.0  # seconds
_BUSY = "libxenlight failed to create new domain"


class LibvirtXen(LibvirtBase):
    """One libvirt connection to a Xen driver."""

    kind = "xen"

    @bounded
    def version(self) -> str:
        return (
            f"Xen {dotted(self._connection.getVersion())}, "
            f"libvirt {dotted(self._connection.getLibVersion())}"
        )

    def derive(self, source_xml: str, spec: CloneSpec) -> CloneXml:
        return xen_clone_xml(source_xml, spec)

    @bounded
    def free_memory(self) -> int:
        """What Xen has for new domains: nothing is ever taken from dom0."""
        with translated("reading the free memory"):
            return int(self._connection.getFreeMemory())

    def start(self, xml: str, deadline: Deadline) -> None:
        """Start a domain; tried again when the host was too busy for it.

        libxl gives the scripts that plug a disk in some seconds, and ends a domain
        whose scripts are slower: seen on an emulated host with much else to do.
        """
        for attempt in range(_START_TRIES):
            try:
                super().start(xml, deadline)
                return
            except HostError as problem:
                if _BUSY not in problem.message:
                    raise
                if attempt == _START_TRIES - 1:
                    raise HostError(self._with_memory(problem.message, xml), problem.hint) from None
                deadline.sleep(_START_PAUSE)

    def _with_memory(self, message: str, xml: str) -> str:
        """libxl says of every failure that there was one: no memory is the first suspect."""
        try:
            free = f"{self.free_memory() >> 20} MiB free"
        except HostError as problem:
            free = f"no answer: {problem.message}"
        return f"{message}; it needs {memory_of(xml) >> 20} MiB of memory, Xen has {free}"

    def destroy(self, name: str, run: str) -> bool:
        """By libvirt; one that it cannot end is ended by Xen's own tool."""
        try:
            return super().destroy(name, run)
        except HostError:
            if name not in (found for found, mark in self.marked_domains() if mark.run == run):
                raise
            self.host.run(["xl", "destroy", name], Deadline(_DESTROY_SECONDS, f"ending {name}"))
            return True

    def follow_console(self, name: str, log: Path, folder: RunFolder) -> None:
        follow_console(self.host, name, log, folder)

    def screenshot(self, name: str) -> bytes | None:
        return None  # libxl has none

    def _state_of(self, state: int, reason: int) -> str:
        if state != libvirt.VIR_DOMAIN_SHUTOFF:
            return STATES.get(state, "off")
        if reason == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED:
            return "crashed"  # on_crash=preserve: it is there, for its console to be read
        # A domain of ours is transient: where it is still listed, it is being started again.
        return "restarting"

    @bounded
    def guest_types(self) -> tuple[str, ...]:
        """What libvirt can start here: "pv", "pvh", "hvm"."""
        with translated("reading what the host can run"):
            return guest_types(self._connection.getCapabilities())

    @bounded
    def from_xl(self, config: str) -> str:
        try:
            return str(self._connection.domainXMLFromNative("xen-xl", config, 0))
        except libvirt.libvirtError as problem:
            raise RequestError(
                f"that is no configuration of xl's that libvirt understands: {say(problem)}",
                "define the guest by hand: virsh define FILE",
            ) from problem

    @bounded
    def define(self, xml: str) -> None:
        with translated("defining the guest"):
            self._connection.defineXML(xml)
