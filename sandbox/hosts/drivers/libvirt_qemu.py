"""libvirt's QEMU driver: the embedded default where there is no Xen."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import libvirt
from lxml import etree

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.core.records import Disk
from sandbox.core.store import RunFolder
from sandbox.hosts.drivers import Export, SourceDomain, unknown_guest
from sandbox.hosts.drivers.backup_xml import backup_socket, backup_xml
from sandbox.hosts.drivers.bounded import bounded
from sandbox.hosts.drivers.clone_xml import CloneSpec, CloneXml, clone_xml
from sandbox.hosts.drivers.libvirt_base import LibvirtBase, disk_chain, dotted, say, translated

__all__ = ["LibvirtQemu", "dac_owner", "disk_chain"]

_NO_EXPORT = (
    libvirt.VIR_ERR_NO_DOMAIN,
    libvirt.VIR_ERR_NO_DOMAIN_BACKUP,
    libvirt.VIR_ERR_OPERATION_INVALID,  # it is not running any more
)
_EXPORT = "export"  # beneath the clone's folder; belongs to the source's QEMU


class LibvirtQemu(LibvirtBase):
    """One libvirt connection to a QEMU driver."""

    kind = "qemu"

    @bounded
    def version(self) -> str:
        return (
            f"QEMU {dotted(self._connection.getVersion())}, "
            f"libvirt {dotted(self._connection.getLibVersion())}"
        )

    def derive(self, source_xml: str, spec: CloneSpec) -> CloneXml:
        return clone_xml(source_xml, spec)

    @bounded
    def free_memory(self) -> int:
        with translated("reading the free memory"):
            stats = self._connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
        # What the page cache holds is given back to a new guest: count it as free.
        return int(stats["free"] + stats.get("cached", 0) + stats.get("buffers", 0)) * 1024

    @bounded
    def export_running(
        self, source: SourceDomain, disks: Sequence[Disk], folder: Path, deadline: Deadline
    ) -> tuple[Export, ...]:
        deadline.check()
        place = folder / _EXPORT
        place.mkdir(mode=0o700)
        owner = dac_owner(source.xml)
        if owner is not None:
            os.chown(place, *owner)  # the source's own QEMU makes the socket
        socket = place / "nbd.sock"
        xml = backup_xml(source.xml, [disk.target for disk in disks], socket, place)
        try:
            self._connection.lookupByUUIDString(source.uuid).backupBegin(xml, None, 0)
        except libvirt.libvirtError as problem:
            raise HostError(
                f"cannot export the disks of the running guest {source.name!r}: {say(problem)}",
                "another backup or rehearsal of this guest may be in progress: try again later",
            ) from problem
        return tuple(Export(d.target, socket, d.target, d.size) for d in disks)

    @bounded
    def export_in_use(self, source: SourceDomain) -> str:
        with translated(f"reading the jobs of {source.name!r}"):
            try:
                job = self._connection.lookupByUUIDString(source.uuid).jobInfo()[0]
            except libvirt.libvirtError as problem:
                if problem.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                    raise
                raise unknown_guest(source.name, self.guests(), self.uri) from problem
            if job == libvirt.VIR_DOMAIN_JOB_NONE:
                return ""
        return f"{source.name!r} has a backup, migration or rehearsal in progress"

    @bounded
    def end_export(self, source: str, folder: Path) -> bool:
        try:
            if not self._is_exported(source, folder):
                return False
            self._connection.lookupByName(source).abortJob()
            # It ends in its own time: until then the source has a job, and QEMU our files open.
            deadline = Deadline(30, f"ending the export of {source!r}")
            while self._is_exported(source, folder):
                deadline.sleep(0.02)
        except libvirt.libvirtError as problem:
            if problem.get_error_code() in _NO_EXPORT:
                return False
            raise HostError(
                f"ending the export of {source!r}: {say(problem)}",
                f"virsh domjobabort {source}",
            ) from problem
        return True

    def _is_exported(self, source: str, folder: Path) -> bool:
        """Whether an export in this folder is in progress."""
        try:
            socket = backup_socket(self._connection.lookupByName(source).backupGetXMLDesc(0))
        except libvirt.libvirtError as problem:
            if problem.get_error_code() in _NO_EXPORT:
                return False
            raise
        return socket is not None and socket.parent == folder / _EXPORT

    def follow_console(self, name: str, log: Path, folder: RunFolder) -> None:
        """QEMU writes it itself: the clone's XML names the file."""

    @bounded
    def screenshot(self, name: str) -> bytes | None:
        from PIL import Image

        try:
            domain = self._connection.lookupByName(name)
            stream = self._connection.newStream(0)
            domain.screenshot(stream, 0, 0)
            picture = io.BytesIO()
            stream.recvAll(lambda _stream, data, opaque: opaque.write(data), picture)
            stream.finish()
        except libvirt.libvirtError:
            return None  # no graphics adapter, or the domain is gone: the console has to do
        picture.seek(0)
        png = io.BytesIO()
        with Image.open(picture) as image:
            image.save(png, "PNG", optimize=True)
        return png.getvalue()


def dac_owner(domain_xml: str) -> tuple[int, int] | None:
    """User and group of a running domain's QEMU, from its live XML."""
    label = etree.fromstring(domain_xml.encode()).findtext("./seclabel[@model='dac']/label")
    user, _, group = (label or "").replace("+", "").partition(":")
    return (int(user), int(group)) if user.isdigit() and group.isdigit() else None
