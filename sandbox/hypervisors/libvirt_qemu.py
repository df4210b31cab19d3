"""libvirt's QEMU driver: the embedded default where there is no Xen."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import libvirt
from lxml import etree

from sandbox.deadline import Deadline
from sandbox.errors import DeadlineExceeded, HostError, RequestError
from sandbox.hypervisors import Export, Mark, SourceDomain, Vitals, unknown_guest
from sandbox.hypervisors.backup_xml import backup_socket, backup_xml
from sandbox.hypervisors.marks import read_mark, require_mark
from sandbox.records import Disk

_NO_EXPORT = (
    libvirt.VIR_ERR_NO_DOMAIN,
    libvirt.VIR_ERR_NO_DOMAIN_BACKUP,
    libvirt.VIR_ERR_OPERATION_INVALID,  # it is not running any more
)
_EXPORT = "export"  # beneath the clone's folder; belongs to the source's QEMU
_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "running",  # still shutting down
    libvirt.VIR_DOMAIN_SHUTOFF: "off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "paused",
}


def _silence(_context: object, _error: object) -> None:
    """libvirt prints every error to standard error by default; ours reach people once."""


class LibvirtQemu:
    """One libvirt connection. Methods may be called from one thread at a time."""

    def __init__(self, uri: str, connection: Any) -> None:
        self.uri = uri
        self._connection = connection

    @classmethod
    def connect(cls, uri: str, deadline: Deadline) -> LibvirtQemu:
        """Open the connection; a hanging daemon costs the deadline, not for ever."""
        libvirt.registerErrorHandler(_silence, None)
        result: list[Any] = []

        def attempt() -> None:
            try:
                result.append(libvirt.open(uri))
            except libvirt.libvirtError as problem:
                result.append(problem)

        # libvirt.open has no time-out of its own and hangs on a daemon that restarts in a loop.
        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(max(0.1, deadline.remaining()))
        if not result:
            raise DeadlineExceeded(f"connecting to {uri}", deadline.seconds, "restart libvirtd")
        if isinstance(result[0], libvirt.libvirtError):
            raise HostError(
                f"cannot connect to libvirt at {uri}: {_say(result[0])}",
                "start it: systemctl start libvirtd (without systemd: virtlogd -d; libvirtd -d)",
            ) from result[0]
        return cls(uri, result[0])

    def close(self) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.close()

    def version(self) -> str:
        return (
            f"QEMU {_dotted(self._connection.getVersion())}, "
            f"libvirt {_dotted(self._connection.getLibVersion())}"
        )

    def guests(self) -> tuple[str, ...]:
        with _translated("listing the guests"):
            domains = self._connection.listAllDomains(0)
        ours = {name for name, _mark in self.marked_domains()}
        return tuple(sorted(d.name() for d in domains if d.name() not in ours))

    def lookup(self, name: str) -> SourceDomain:
        try:
            domain = self._connection.lookupByName(name)
        except libvirt.libvirtError as problem:
            if problem.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise HostError(f"looking up {name!r}: {_say(problem)}") from problem
            raise unknown_guest(name, self.guests(), self.uri) from problem
        with _translated(f"reading {name!r}"):
            running = self.state(name) in ("running", "paused")
            flags = libvirt.VIR_DOMAIN_XML_SECURE
            if not running:
                flags |= libvirt.VIR_DOMAIN_XML_INACTIVE
            xml = domain.XMLDesc(flags)
            if read_mark(xml) is not None:
                raise RequestError(f"{name!r} is a clone of ours, not a guest")
            return SourceDomain(name, domain.UUIDString(), xml, running)

    def vitals(self, source: SourceDomain) -> Vitals:
        with _translated(f"reading {source.name!r}"):
            domain = self._connection.lookupByUUIDString(source.uuid)
            running = bool(domain.isActive())
            xml = domain.XMLDesc(0 if running else libvirt.VIR_DOMAIN_XML_INACTIVE)
            cpu = domain.info()[4] / 1e9
            instance = str(domain.ID()) if running else ""
        return Vitals(running, xml, disk_chain(xml), instance, cpu, ())

    def free_memory(self) -> int:
        with _translated("reading the free memory"):
            stats = self._connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
        # What the page cache holds is given back to a new guest: count it as free.
        return int(stats["free"] + stats.get("cached", 0) + stats.get("buffers", 0)) * 1024

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
        domain = self._connection.lookupByUUIDString(source.uuid)
        xml = backup_xml(source.xml, [disk.target for disk in disks], socket, place)
        try:
            domain.backupBegin(xml, None, 0)
        except libvirt.libvirtError as problem:
            raise HostError(
                f"cannot export the disks of the running guest {source.name!r}: {_say(problem)}",
                "another backup or rehearsal of this guest may be in progress: try again later",
            ) from problem
        return tuple(Export(d.target, socket, d.target, d.size) for d in disks)

    def export_in_use(self, source: SourceDomain) -> str:
        with _translated(f"reading the jobs of {source.name!r}"):
            domain = self._connection.lookupByUUIDString(source.uuid)
            if domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE:
                return ""
        return f"{source.name!r} has a backup, migration or rehearsal in progress"

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
                f"ending the export of {source!r}: {_say(problem)}",
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

    def start(self, xml: str, deadline: Deadline) -> None:
        deadline.check()
        try:
            self._connection.createXML(xml, 0)
        except libvirt.libvirtError as problem:
            raise HostError(
                f"the clone cannot be started: {_say(problem)}",
                "`sandbox doctor` checks this host; the clone's XML is among the artifacts",
            ) from problem

    def state(self, name: str) -> str:
        try:
            state, _reason = self._connection.lookupByName(name).state()
        except libvirt.libvirtError as problem:
            if problem.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return "off"
            raise HostError(f"reading the state of {name!r}: {_say(problem)}") from problem
        return _STATES.get(state, "off")

    def destroy(self, name: str, run: str) -> bool:
        return self._remove(
            lambda: self._connection.lookupByName(name), libvirt.VIR_ERR_NO_DOMAIN, name, run
        )

    def destroy_network(self, name: str, run: str) -> bool:
        return self._remove(
            lambda: self._connection.networkLookupByName(name),
            libvirt.VIR_ERR_NO_NETWORK,
            name,
            run,
        )

    def _remove(self, look_up: Callable[[], Any], absent: int, name: str, run: str) -> bool:
        try:
            thing = look_up()
            require_mark(name, thing.XMLDesc(0), run)
            thing.destroy()
        except libvirt.libvirtError as problem:
            if problem.get_error_code() == absent:
                return False
            raise HostError(f"removing {name!r}: {_say(problem)}") from problem
        return True

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

    def create_network(self, xml: str) -> None:
        try:
            self._connection.networkCreateXML(xml)
        except libvirt.libvirtError as problem:
            raise HostError(f"cannot create the clone's network: {_say(problem)}") from problem

    def leases(self, network: str) -> tuple[tuple[str, str], ...]:
        try:
            leases = self._connection.networkLookupByName(network).DHCPLeases()
        except libvirt.libvirtError:
            return ()  # asked again in a moment; the link-local address is the first way anyway
        return tuple((lease["mac"].lower(), lease["ipaddr"]) for lease in leases)

    def marked_domains(self) -> tuple[tuple[str, Mark], ...]:
        return self._marked(self._connection.listAllDomains)

    def marked_networks(self) -> tuple[tuple[str, Mark], ...]:
        return self._marked(self._connection.listAllNetworks)

    def _marked(self, list_all: Callable[[int], list[Any]]) -> tuple[tuple[str, Mark], ...]:
        found = []
        with _translated("listing what carries our mark"):
            things = list_all(0)
        for thing in things:
            with contextlib.suppress(libvirt.libvirtError):  # gone since it was listed
                mark = read_mark(thing.XMLDesc(0))
                if mark is not None:
                    found.append((thing.name(), mark))
        return tuple(found)


def dac_owner(domain_xml: str) -> tuple[int, int] | None:
    """User and group of a running domain's QEMU, from its live XML."""
    label = etree.fromstring(domain_xml.encode()).findtext("./seclabel[@model='dac']/label")
    user, _, group = (label or "").replace("+", "").partition(":")
    return (int(user), int(group)) if user.isdigit() and group.isdigit() else None


def disk_chain(domain_xml: str) -> tuple[str, ...]:
    """Every image file of a domain's disks, backing files included, as libvirt reports them."""
    root = etree.fromstring(domain_xml.encode())
    sources = root.iterfind("./devices/disk//source")
    return tuple(str(s.get("file") or s.get("dev") or s.get("name") or "") for s in sources)


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as problem:
        raise HostError(f"{doing}: {_say(problem)}", "is libvirtd running?") from problem


def _say(problem: Any) -> str:
    return str(problem.get_error_message() or problem)


def _dotted(version: int) -> str:
    return f"{version // 1000000}.{version // 1000 % 1000}.{version % 1000}"
