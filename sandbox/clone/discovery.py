"""Find the clone on its bridge: link-local addresses first, a DHCP lease as the second way."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import time
from collections.abc import Callable, Sequence

from sandbox.core.deadline import Deadline
from sandbox.hosts.transport import Host, HostLost, LocalHost

_NEIGHBOUR = re.compile(r"^(fe80::\S+) .*?lladdr ([0-9a-f:]{17})", re.MULTILINE)
_LOCAL_PATIENCE, _REMOTE_PATIENCE = 3.0, 10.0  # seconds for one address
_LISTEN = 0.3  # seconds for answers to a multicast ping
# What a port of a bridge has received is what the guest's card has sent.
_EVERY = 5.0  # seconds between looks at what it counts: each costs processes on the host
_COUNTS = 'cat "/sys/class/net/$0"/lower_*/statistics/rx_packets 2>/dev/null'


def link_local(mac: str) -> str:
    """The EUI-64 link-local address of a MAC (RFC 4291, appendix A)."""
    octets = bytearray(int(part, 16) for part in mac.split(":"))
    octets[0] ^= 2
    eui = bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + eui))


def candidates(
    macs: Sequence[str], bridge: str, leases: Sequence[tuple[str, str]], neighbours: Sequence[str]
) -> tuple[str, ...]:
    """Addresses to try, most likely first, each once."""
    local = [f"{link_local(mac)}%{bridge}" for mac in macs]
    seen = [f"{address}%{bridge}" for address in neighbours]
    leased = [address for mac, address in leases if mac in macs]
    return tuple(dict.fromkeys((*local, *seen, *leased)))


def neighbours(host: Host, bridge: str, macs: Sequence[str], deadline: Deadline) -> tuple[str, ...]:
    """Link-local addresses that answer a multicast ping: guests with RFC 7217 addresses."""
    if isinstance(host, LocalHost):
        with contextlib.suppress(OSError):
            _ask_all_nodes(bridge)
    else:  # where it is not installed, guests that ask for others' addresses are still known
        host.run(["ping", "-6", "-c", "2", f"ff02::1%{bridge}"], deadline, check=False)
    shown = host.run(["ip", "-6", "neigh", "show", "dev", bridge], deadline, check=False).stdout
    return tuple(address for address, mac in _NEIGHBOUR.findall(shown) if mac in macs)


def _ask_all_nodes(bridge: str) -> None:
    """ICMPv6 echo to ff02::1; each answer is followed by a unicast echo, so that the kernel
    resolves who it is and the neighbour table learns its MAC."""
    index = socket.if_nametoindex(bridge)
    request = bytes([128, 0, 0, 0, 0x5A, 0x0B, 0, 1]) + b"sandbox!"
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bridge.encode())
        raw.sendto(request, ("ff02::1", 0, 0, index))
        answered: set[str] = set()  # each is asked once: its answer to that is an answer, too
        end = time.monotonic() + _LISTEN
        while (left := end - time.monotonic()) > 0:
            raw.settimeout(left)
            data, peer = raw.recvfrom(2048)
            if data[:1] == b"\x81" and peer[0] not in answered:  # echo reply
                answered.add(peer[0])
                raw.sendto(request, (peer[0], 0, 0, index))


def find(
    host: Host,
    macs: Sequence[str],
    bridge: str,
    port: int,
    leases: Callable[[], Sequence[tuple[str, str]]],
    deadline: Deadline,
    round: int,
) -> str | None:
    """One round of trying: the address that answers, or None. The costly ways (multicast,
    leases) are asked only every few rounds."""
    fallback = round % 4 == 3
    known = neighbours(host, bridge, macs, deadline) if fallback else ()
    leased = leases() if fallback else ()
    patience = _LOCAL_PATIENCE if isinstance(host, LocalHost) else _REMOTE_PATIENCE
    for address in candidates(macs, bridge, leased, known):
        if host.answers_ssh(address, port, min(patience, max(0.2, deadline.remaining()))):
            return address
    return None


class Sending:
    """When the guest's network cards last sent anything, as the ports of its bridge count it."""

    def __init__(self, host: Host, bridge: str) -> None:
        self._host = host
        self._bridge = bridge
        self._counts = ""
        self._since: float | None = None
        self._looked: float | None = None

    def look(self, deadline: Deadline) -> None:
        """To be asked again and again; what the host does not count, or a host that cannot be
        reached just now, stays unknown."""
        if self._looked is not None and time.monotonic() - self._looked < _EVERY:
            return
        self._looked, counts = time.monotonic(), ""
        with contextlib.suppress(HostLost):
            argv = ["sh", "-c", _COUNTS, self._bridge]
            counts = self._host.run(argv, deadline, check=False).stdout
        if not counts.strip():
            self._since = None
        elif self._since is None or counts != self._counts:
            self._since = time.monotonic()
        self._counts = counts

    def silence(self) -> float:
        """Seconds since they were last seen to have sent; 0 where that is unknown."""
        return 0.0 if self._since is None else time.monotonic() - self._since
