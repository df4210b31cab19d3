"""What the package proxy lets through: URLs beneath allowed base URIs, at addresses that are safe.

A clone is production and may be hostile. Everything here is strict rather than clever: a URL
that could be read in two ways is refused, with the reason in words that apt shows to a person.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from urllib.parse import unquote_to_bytes

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URL = 4096
RESOLVE_SECONDS = 10.0
RESOLVED_FOR = 60.0  # seconds that an answer of the resolver is used again

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]+)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?"
)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_UNRESERVED = re.compile(rb"[A-Za-z0-9._-]")  # never need encoding; apt does encode "~" and "+"
_PLAIN = re.compile(r"[\x21-\x7e]+")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], list[str]]


class Refused(Exception):
    """A request that is not let through; the text says why."""

    def __init__(self, reason: str, status: int = 403) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


@dataclass(frozen=True)
class Target:
    """A URL taken apart: host in lower case, path with one spelling only."""

    scheme: str
    host: str
    port: int
    path: str = "/"
    query: str = ""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS.get(self.scheme) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}{self.query}"


def parse_url(raw: str) -> Target:
    """An absolute http(s) URL; raises :class:`Refused` for anything ambiguous."""
    if len(raw) > MAX_URL:
        raise Refused("the URL is too long", 414)
    match = _URL.fullmatch(raw)
    if not match or not _PLAIN.fullmatch(raw) or "\\" in raw:
        raise Refused("not an absolute http URL in plain characters", 400)
    host, port = parse_authority(match["authority"], DEFAULT_PORTS[match["scheme"]])
    path = canonical_path(match["path"] or "/")
    return Target(match["scheme"], host, port, path, match["query"] or "")


def parse_authority(raw: str, default_port: int | None) -> tuple[str, int]:
    """ "host[:port]" without a user; numeric hosts only in their one usual form."""
    if "@" in raw or "%" in raw:
        raise Refused("a user or an escape in the host is not accepted", 400)
    match = _AUTHORITY.fullmatch(raw)
    if not match:
        raise Refused("not a host name with an optional port", 400)
    port = int(match["port"]) if match["port"] else default_port
    if port is None or not 0 < port < 65536:
        raise Refused("no valid port", 400)
    return _host(match["host"].lower()), port


def _host(name: str) -> str:
    bare = name.strip("[]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        name = name.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise Refused("not a valid host name", 400)
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        raise Refused("an address must be written as four numbers", 400)  # 127.1, 0x7f000001
    return name


def canonical_path(path: str) -> str:
    """The path with one spelling only; raises :class:`Refused` for ways around a prefix.

    A plain "." as a folder is what apt writes for a flat archive ("deb http://… ./").
    """
    while "/./" in path:
        path = path.replace("/./", "/")
    _refuse_traversal(path)

    def one_spelling(match: re.Match[str]) -> str:
        if not re.fullmatch(r"%[0-9a-fA-F]{2}", match[0]):
            raise Refused("a broken escape in the path", 400)
        byte = bytes.fromhex(match[0][1:])
        if _UNRESERVED.fullmatch(byte):
            raise Refused("an unnecessary escape in the path", 400)
        return "~" if byte == b"~" else match[0].lower()

    # Some object stores read a plain "+" as a blank, which is why apt escapes it.
    return re.sub(r"%.{0,2}", one_spelling, path).replace("+", "%2b")


def _refuse_traversal(path: str) -> None:
    """No "..", slash, backslash or control character, however often it is escaped.

    Escapes of escapes as such are met in real archives (a file name that holds "%3a").
    """
    seen = path.encode()
    for depth in range(6):
        slashes = seen.count(b"/")
        if depth and slashes != path.count("/"):
            raise Refused("an escaped slash in the path", 400)
        if b"\\" in seen or any(byte < 0x20 or byte == 0x7F for byte in seen):
            raise Refused("an escaped control character or backslash in the path", 400)
        if any(segment in (b".", b"..") for segment in seen.split(b"/")):
            raise Refused("a path with . or .. in it", 400)
        decoded = unquote_to_bytes(seen)
        if decoded == seen:
            return
        seen = decoded
    raise Refused("a path escaped too many times", 400)


@dataclass(frozen=True)
class Rule:
    """An allowed base URI. ``operator``: allowed by the host's owner, at any address."""

    base: Target
    operator: bool = False

    def covers(self, target: Target) -> bool:
        base = self.base
        same = (target.scheme, target.host, target.port) == (base.scheme, base.host, base.port)
        folder = base.path.rstrip("/") + "/"
        return same and (target.path.startswith(folder) or target.path == base.path)


class AllowList:
    """The rules in force; grows while the proxy runs. Safe to use from many threads."""

    def __init__(self) -> None:
        self._rules: tuple[Rule, ...] = ()
        self._lock = threading.Lock()

    def add(self, uris: Iterable[str], *, operator: bool = False) -> list[str]:
        """Allow base URIs; returns those that no proxy can serve (cdrom:, file:, nonsense).

        User and password of a source are the guest's business: apt sends them by itself.
        """
        rules: list[Rule] = []
        useless: list[str] = []
        for uri in uris:
            plain = re.sub(r"^(https?://)[^/?#@]*@", r"\1", uri.strip())
            try:
                base = replace(parse_url(plain), query="")
            except Refused:
                useless.append(uri)
                continue
            rules.append(Rule(base, operator))
        with self._lock:
            self._rules = tuple(dict.fromkeys((*self._rules, *rules)))
        return useless

    def find(self, target: Target) -> Rule:
        """The rule that lets a URL through; the operator's before the guest's."""
        found = [rule for rule in self._rules if rule.covers(target)]
        if not found:
            raise Refused("not a package source of this guest")
        return max(found, key=lambda rule: rule.operator)

    def find_tunnel(self, host: str, port: int) -> Rule:
        """The rule for a CONNECT: an https source on that host and port."""
        found = [
            rule
            for rule in self._rules
            if rule.base.scheme == "https" and (rule.base.host, rule.base.port) == (host, port)
        ]
        if not found:
            raise Refused("not an https package source of this guest")
        return max(found, key=lambda rule: rule.operator)


# --- addresses ------------------------------------------------------------------------------

_METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def forbidden_address(text: str) -> str:
    """Why a guest may not reach this address through us; "" when it may."""
    address = _embedded(ipaddress.ip_address(text.partition("%")[0]))
    if address in _METADATA:
        return "a cloud's metadata service"
    if address.is_loopback or address.is_unspecified:
        return "the host's loopback"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if isinstance(address, ipaddress.IPv4Address) and address.is_reserved:
        return "a reserved address"
    return "an address of this host" if _is_own(address) else ""


def _embedded(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that only wraps it."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_own(address: Address) -> bool:
    """Whether it is this machine's: then, and only then, we would talk to it from itself.

    Connecting a UDP socket sends nothing; the kernel only chooses the way.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return str(probe.getsockname()[0]).partition("%")[0] == str(address)
    except OSError:
        return False  # no way leads there


def system_resolver(host: str, port: int) -> list[str]:
    """The host's addresses, from the system's resolver, which may block."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class Addresses:
    """Names to addresses that may be connected to: resolved once, checked, then used as they are.

    Because the connection goes to the address that was checked, a name that changes its mind in
    between (DNS rebinding) gains nothing.
    """

    def __init__(self, resolver: Resolver = system_resolver) -> None:
        self._resolver = resolver
        self._known: dict[tuple[str, int], tuple[float, list[str]]] = {}

    def of(self, host: str, port: int, *, operator: bool) -> list[str]:
        """Addresses to try, in order; raises :class:`Refused`."""
        found = self.resolve(host, port)
        if operator:
            return found
        reasons = {address: forbidden_address(address) for address in found}
        safe = [address for address, reason in reasons.items() if not reason]
        if not safe:
            raise Refused(f"{host} is {next(iter(reasons.values()))}")
        return safe

    def resolve(self, host: str, port: int) -> list[str]:
        """All addresses; raises :class:`Refused` with 502 when there is none in time."""
        known = self._known.get((host, port))
        if known and time.monotonic() - known[0] < RESOLVED_FOR:
            return known[1]
        try:
            found = in_time(lambda: self._resolver(host, port), RESOLVE_SECONDS)
        except (OSError, UnicodeError, FutureTimeout) as problem:
            raise Refused(f"the host could not resolve {host}", 502) from problem
        if not found:
            raise Refused(f"{host} has no address", 502)
        if len(self._known) > 1000:
            self._known.clear()
        self._known[host, port] = (time.monotonic(), found)
        return found


def in_time(work: Callable[[], list[str]], seconds: float) -> list[str]:
    """The result of something that has no timeout of its own; its thread may outlive it."""
    result: Future[list[str]] = Future()

    def attempt() -> None:
        try:
            result.set_result(work())
        except Exception as problem:
            result.set_exception(problem)

    threading.Thread(target=attempt, daemon=True).start()
    return result.result(timeout=seconds)
