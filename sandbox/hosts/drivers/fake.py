"""A hypervisor in memory: for tests of what stands above it, and under the same contract.

Guests are defined from XML; marks, disks and networks are read from the XML that it is given, as
the real driver does. Nothing runs: a domain "runs" until it is destroyed or a test says otherwise.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lxml import etree

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError, RequestError
from sandbox.core.records import Disk
from sandbox.core.store import RunFolder
from sandbox.hosts.drivers import Export, Mark, SourceDomain, Vitals, unknown_guest
from sandbox.hosts.drivers.clone_xml import CloneSpec, CloneXml, clone_xml
from sandbox.hosts.drivers.marks import read_mark, require_mark
from sandbox.hosts.drivers.xen_console import follow_console
from sandbox.hosts.transport import Host, LocalHost

_EXPORT = "export"  # beneath the clone's folder, as the real driver has it


@dataclass
class FakeDomain:
    """A domain, guest or clone; tests may change its fields at any time."""

    name: str
    uuid: str
    xml: str
    state: str  # "running", "paused", "crashed", "off"
    instance: str
    cpu_seconds: float = 0.0
    persistent: bool = False
    export: Path | None = None  # the folder of an export in progress


@dataclass
class FakeHypervisor:
    """Implements :class:`sandbox.hosts.drivers.Hypervisor`."""

    uri: str = "fake:///"
    kind: str = "qemu"
    host: Host = field(default_factory=LocalHost)
    memory: int = 8 << 30
    screen: bytes | None = None
    domains: dict[str, FakeDomain] = field(default_factory=dict)
    networks: dict[str, str] = field(default_factory=dict)  # name -> XML
    given_leases: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    closed: bool = False
    _failures: dict[str, list[BaseException]] = field(default_factory=dict)
    _instances: itertools.count[int] = field(default_factory=itertools.count)

    # -- what a test arranges ---------------------------------------------------------------

    def define(self, xml: str, *, running: bool = False) -> FakeDomain:
        """Add a guest, as its administrator would."""
        return self._add(xml, "running" if running else "off", persistent=True)

    def fail(self, method: str, *problems: BaseException) -> None:
        """Let the next calls of a method raise these, one each."""
        if not callable(getattr(self, method, None)):
            raise AttributeError(f"a hypervisor has no {method!r}")
        self._failures.setdefault(method, []).extend(problems)

    def _trip(self, method: str) -> None:
        waiting = self._failures.get(method)
        if waiting:
            raise waiting.pop(0)

    def _add(self, xml: str, state: str, *, persistent: bool) -> FakeDomain:
        root = etree.fromstring(xml.encode())
        name = root.findtext("./name") or ""
        identity = root.findtext("./uuid") or str(uuid.uuid4())
        if name in self.domains:
            raise HostError(f"domain {name!r} already exists")
        instance = str(next(self._instances)) if state != "off" else ""
        domain = FakeDomain(name, identity, xml, state, instance, persistent=persistent)
        self.domains[name] = domain
        return domain

    # -- the protocol -----------------------------------------------------------------------

    def close(self) -> None:
        self.closed = True

    def version(self) -> str:
        return "a hypervisor in memory"

    def guests(self) -> tuple[str, ...]:
        self._trip("guests")
        return tuple(sorted(n for n, d in self.domains.items() if read_mark(d.xml) is None))

    def lookup(self, name: str) -> SourceDomain:
        self._trip("lookup")
        domain = self.domains.get(name)
        if domain is None:
            raise unknown_guest(name, self.guests(), self.uri)
        if read_mark(domain.xml) is not None:
            raise RequestError(f"{name!r} is a clone of ours, not a guest")
        running = domain.state in ("running", "paused")
        return SourceDomain(name, domain.uuid, domain.xml, running)

    def vitals(self, source: SourceDomain) -> Vitals:
        self._trip("vitals")
        domain = self._by_uuid(source)
        running = domain.state in ("running", "paused")
        found = etree.fromstring(domain.xml.encode()).iterfind("./devices/disk/source")
        chain = tuple(str(s.get("file") or s.get("dev") or "") for s in found)
        return Vitals(
            running, domain.xml, chain, domain.instance if running else "", domain.cpu_seconds
        )

    def free_memory(self) -> int:
        self._trip("free_memory")
        return self.memory

    def export_running(
        self, source: SourceDomain, disks: Sequence[Disk], folder: Path, deadline: Deadline
    ) -> tuple[Export, ...]:
        """No server serves these: the sockets do not exist."""
        deadline.check()
        self._trip("export_running")
        domain = self._by_uuid(source)
        if domain.state not in ("running", "paused") or domain.export is not None:
            raise HostError(
                f"cannot export the disks of the running guest {source.name!r}",
                "another backup or rehearsal of this guest may be in progress: try again later",
            )
        domain.export = folder / _EXPORT
        domain.export.mkdir(mode=0o700)
        socket = domain.export / "nbd.sock"
        return tuple(Export(disk.target, socket, disk.target, disk.size) for disk in disks)

    def export_in_use(self, source: SourceDomain) -> str:
        self._trip("export_in_use")
        if self._by_uuid(source).export is None:
            return ""
        return f"{source.name!r} has a backup, migration or rehearsal in progress"

    def end_export(self, source: str, folder: Path) -> bool:
        self._trip("end_export")
        domain = self.domains.get(source)
        if domain is None or domain.export != folder / _EXPORT:
            return False
        domain.export = None
        return True

    def derive(self, source_xml: str, spec: CloneSpec) -> CloneXml:
        self._trip("derive")
        return clone_xml(source_xml, spec)

    def start(self, xml: str, deadline: Deadline) -> None:
        deadline.check()
        self._trip("start")
        self._add(xml, "running", persistent=False)

    def state(self, name: str) -> str:
        self._trip("state")
        domain = self.domains.get(name)
        return "off" if domain is None else domain.state

    def destroy(self, name: str, run: str) -> bool:
        self._trip("destroy")
        domain = self.domains.get(name)
        if domain is None:
            return False
        require_mark(name, domain.xml, run)
        del self.domains[name]
        return True

    def follow_console(self, name: str, log: Path, folder: RunFolder) -> None:
        self._trip("follow_console")
        if self.kind == "xen":
            follow_console(self.host, name, log, folder)

    def screenshot(self, name: str) -> bytes | None:
        self._trip("screenshot")
        return self.screen if name in self.domains else None

    def create_network(self, xml: str) -> None:
        self._trip("create_network")
        root = etree.fromstring(xml.encode())
        name = root.findtext("./name") or ""
        if name in self.networks:
            raise HostError(f"cannot create the clone's network: network {name!r} already exists")
        taken = {_address(other) for other in self.networks.values()}
        if _address(xml) in taken:
            raise HostError("cannot create the clone's network: its address is already in use")
        self.networks[name] = xml

    def destroy_network(self, name: str, run: str) -> bool:
        self._trip("destroy_network")
        if name not in self.networks:
            return False
        require_mark(name, self.networks[name], run)
        del self.networks[name]
        return True

    def leases(self, network: str) -> tuple[tuple[str, str], ...]:
        self._trip("leases")
        return tuple(self.given_leases.get(network, ())) if network in self.networks else ()

    def marked_domains(self) -> tuple[tuple[str, Mark], ...]:
        self._trip("marked_domains")
        return _marked({name: domain.xml for name, domain in self.domains.items()})

    def marked_networks(self) -> tuple[tuple[str, Mark], ...]:
        self._trip("marked_networks")
        return _marked(self.networks)

    # -- helpers ----------------------------------------------------------------------------

    def _by_uuid(self, source: SourceDomain) -> FakeDomain:
        for domain in self.domains.values():
            if domain.uuid == source.uuid:
                return domain
        raise HostError(f"reading {source.name!r}: it is gone")


def _address(network_xml: str) -> str:
    element = etree.fromstring(network_xml.encode()).find("./ip")
    return "" if element is None else element.get("address", "")


def _marked(things: dict[str, str]) -> tuple[tuple[str, Mark], ...]:
    marks = ((name, read_mark(xml)) for name, xml in things.items())
    return tuple((name, mark) for name, mark in marks if mark is not None)
