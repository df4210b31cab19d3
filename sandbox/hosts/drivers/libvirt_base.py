"""What libvirt's drivers have in common: one connection, looked up, listed and cleaned by mark.

A connection that broke (libvirtd restarted, the way to a remote host cut) is opened again by the
next call: domains live on without it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self
from urllib.parse import urlsplit

import libvirt
from lxml import etree

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded, HostError, RequestError
from sandbox.hosts.drivers import Mark, SourceDomain, Vitals, unknown_guest
from sandbox.hosts.drivers.bounded import bounded
from sandbox.hosts.drivers.marks import read_mark, require_mark
from sandbox.hosts.transport import Host, HostLost, RemoteHost, host_of

STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "running",  # still shutting down
    libvirt.VIR_DOMAIN_SHUTOFF: "off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "paused",
}
_DOM0 = "Domain-0"  # Xen's own host, which its driver lists among the guests
_RECONNECT_SECONDS = 60.0
_GONE = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_NETWORK)


def _silence(_context: object, _error: object) -> None:
    """libvirt prints every error to standard error by default; ours reach people once."""


class LibvirtBase:
    """One libvirt connection. Methods may be called from several threads."""

    def __init__(self, uri: str, connection: Any, host: Host | None = None) -> None:
        self.uri = uri
        self.host = host or host_of(uri)
        self._last_connection: Any = connection
        self._lock = threading.RLock()

    @classmethod
    def connect(cls, uri: str, deadline: Deadline) -> Self:
        """Open the connection; a hanging daemon costs the deadline, not for ever."""
        host = host_of(uri)
        return cls(uri, _open(host.uri if isinstance(host, RemoteHost) else uri, deadline), host)

    @property
    def _connection(self) -> Any:
        """The connection, opened again where it broke."""
        with self._lock:
            connection = self._last_connection
            if connection is None or not _is_alive(connection):
                real = self.host.uri if isinstance(self.host, RemoteHost) else self.uri
                connection = self._last_connection = _reopen(real)
            return connection

    def abandon(self) -> None:
        """Leave the connection and its lock to the calls that hang in it; the next one opens
        another. It is not closed: that would hang as well."""
        self._last_connection, self._lock = None, threading.RLock()

    def close(self) -> None:
        with contextlib.suppress(HostLost):  # a daemon that hangs forgets us when it goes on
            self._close()

    @bounded
    def _close(self) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            if self._last_connection is not None:
                self._last_connection.close()

    @bounded
    def guests(self) -> tuple[str, ...]:
        found = self._read_marks("listing the guests", lambda: self._connection.listAllDomains(0))
        return tuple(sorted(name for name, mark in found if mark is None and name != _DOM0))

    @bounded
    def lookup(self, name: str) -> SourceDomain:
        try:
            domain = self._connection.lookupByName(name)
            running = self.state(name) in ("running", "paused")
            flags = libvirt.VIR_DOMAIN_XML_SECURE
            if not running:
                flags |= libvirt.VIR_DOMAIN_XML_INACTIVE
            xml = domain.XMLDesc(flags)
        except libvirt.libvirtError as problem:
            if problem.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise failed(f"reading {name!r}", problem) from problem
            # Never there, or gone between two questions.
            raise unknown_guest(name, self.guests(), self.uri) from problem
        if read_mark(xml) is not None:
            raise RequestError(f"{name!r} is a clone of ours, not a guest")
        return SourceDomain(name, domain.UUIDString(), xml, running)

    @bounded
    def vitals(self, source: SourceDomain) -> Vitals:
        with translated(f"reading {source.name!r}"):
            domain = self._connection.lookupByUUIDString(source.uuid)
            running = bool(domain.isActive())
            xml = domain.XMLDesc(0 if running else libvirt.VIR_DOMAIN_XML_INACTIVE)
            cpu = domain.info()[4] / 1e9
            instance = str(domain.ID()) if running else ""
        return Vitals(running, xml, disk_chain(xml), instance, cpu, ())

    @bounded
    def start(self, xml: str, deadline: Deadline) -> None:
        deadline.check()
        try:
            self._connection.createXML(xml, 0)
        except libvirt.libvirtError as problem:
            raise HostError(
                f"the clone cannot be started: {say(problem)}",
                "`sandbox doctor` checks this host; the clone's XML is among the artifacts",
            ) from problem

    @bounded
    def state(self, name: str) -> str:
        try:
            state, reason = self._connection.lookupByName(name).state()
        except libvirt.libvirtError as problem:
            if problem.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return "off"
            raise failed(f"reading the state of {name!r}", problem) from problem
        return self._state_of(state, reason)

    def _state_of(self, state: int, _reason: int) -> str:
        return STATES.get(state, "off")

    @bounded
    def destroy(self, name: str, run: str) -> bool:
        return self._remove(
            lambda: self._connection.lookupByName(name), libvirt.VIR_ERR_NO_DOMAIN, name, run
        )

    @bounded
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
            raise failed(f"removing {name!r}", problem) from problem
        return True

    @bounded
    def create_network(self, xml: str) -> None:
        try:
            self._connection.networkCreateXML(xml)
        except libvirt.libvirtError as problem:
            raise HostError(f"cannot create the clone's network: {say(problem)}") from problem

    @bounded
    def leases(self, network: str) -> tuple[tuple[str, str], ...]:
        try:
            leases = self._connection.networkLookupByName(network).DHCPLeases()
        except libvirt.libvirtError:
            return ()  # asked again in a moment; the link-local address is the first way anyway
        return tuple((lease["mac"].lower(), lease["ipaddr"]) for lease in leases)

    @bounded
    def marked_domains(self) -> tuple[tuple[str, Mark], ...]:
        return self._marked(lambda: self._connection.listAllDomains(0))

    @bounded
    def marked_networks(self) -> tuple[tuple[str, Mark], ...]:
        return self._marked(lambda: self._connection.listAllNetworks(0))

    def _marked(self, list_all: Callable[[], list[Any]]) -> tuple[tuple[str, Mark], ...]:
        found = self._read_marks("listing what carries our mark", list_all)
        return tuple((name, mark) for name, mark in found if mark is not None)

    def _read_marks(
        self, doing: str, list_all: Callable[[], list[Any]]
    ) -> list[tuple[str, Mark | None]]:
        """Names and marks of what is there. What vanishes meanwhile is left out; what cannot be
        read for another reason is an error, since it may be a clone that a reaper looks for."""
        found = []
        with translated(doing):
            for thing in list_all():
                try:
                    found.append((thing.name(), read_mark(thing.XMLDesc(0))))
                except libvirt.libvirtError as problem:
                    if problem.get_error_code() not in _GONE:
                        raise
        return found


def _open(uri: str, deadline: Deadline) -> Any:
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
        hint = "start it: systemctl start libvirtd (without systemd: virtlogd -d; libvirtd -d)"
        shown = uri
        if "+ssh:" in uri:
            shown = uri.partition("?")[0]  # what follows is of our own making
            hint = f"is it up, is root let in with your key? try: ssh {urlsplit(uri).hostname}"
        if "no connection driver" in say(result[0]):
            hint = "its libvirt has no driver for that: apt install libvirt-daemon-driver-xen"
        raise HostError(
            f"cannot connect to libvirt at {shown}: {say(result[0])}", hint
        ) from result[0]
    return result[0]


def _reopen(uri: str) -> Any:
    deadline = Deadline(_RECONNECT_SECONDS, f"connecting to {uri} again")
    while True:
        try:
            return _open(uri, deadline)
        except HostError as problem:
            if deadline.remaining() < 2:
                raise HostLost(problem.message, problem.hint) from problem
            deadline.sleep(1)


def _is_alive(connection: Any) -> bool:
    try:
        # isAlive alone may not have noticed yet; a cheap call does.
        connection.getLibVersion()
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def disk_chain(domain_xml: str) -> tuple[str, ...]:
    """Every image file of a domain's disks, backing files included, as libvirt reports them."""
    root = etree.fromstring(domain_xml.encode())
    sources = root.iterfind("./devices/disk//source")
    return tuple(str(s.get("file") or s.get("dev") or s.get("name") or "") for s in sources)


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """libvirt's errors become ours."""
    try:
        yield
    except libvirt.libvirtError as problem:
        raise failed(doing, problem, "is libvirtd running?") from problem


def failed(doing: str, problem: Any, hint: str = "") -> HostError:
    """Our error for one of libvirt's: another one where the connection broke, since what was asked
    for can be asked again."""
    broke = problem.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
    return (HostLost if broke else HostError)(f"{doing}: {say(problem)}", hint)


def say(problem: Any) -> str:
    """What libvirt says of an error."""
    return str(problem.get_error_message() or problem)


def dotted(version: int) -> str:
    """libvirt's way to write versions: 9000000 is 9.0.0."""
    return f"{version // 1000000}.{version // 1000 % 1000}.{version % 1000}"
