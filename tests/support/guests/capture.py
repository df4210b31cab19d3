"""What a host sees and hears while a hostile clone runs: on its wires, and in its services."""

from __future__ import annotations

import json
import re
import selectors
import socket
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.guests.hostile_program import ALIENS, EVIL_MAC, MARKER, TRAP

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS = 263, 6  # linux/if_packet.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h: past the limit for everybody
BUFFER = 64 << 20
ALLOWED_ICMP6 = (129, 135, 136)  # an answer to a ping, neighbour discovery: the gate lets them in
_ATTACK = re.compile(re.escape(MARKER) + rb":([a-z0-9-]+);")


class _Thread:
    """Reads sockets in the background until left."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._stop, self._wake = socket.socketpair()
        self._selector.register(self._stop, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._lock = threading.Lock()

    def _add(self, sock: socket.socket, action: Callable[[socket.socket], None]) -> None:
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, action)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                try:
                    key.data(key.fileobj)
                except (BlockingIOError, ConnectionError):
                    continue

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._wake.close()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()


class Capture(_Thread):
    """Every frame on every interface of this host that could come from a hostile clone.

    Told by the words in it, by an Ethernet address or by an IP address that only it uses.
    """

    def __init__(self, macs: tuple[bytes, ...] = ()) -> None:
        super().__init__()
        self._macs = (EVIL_MAC, *macs)
        self._aliens = tuple(socket.inet_aton(alien) for alien in ALIENS)
        self.seen: Counter[tuple[str, str]] = Counter()  # (interface, what it was told by)
        self.examples: dict[tuple[str, str], str] = {}
        self.frames = 0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        self._add(self._socket, self._take)

    def _take(self, wire: socket.socket) -> None:
        for _ in range(1000):
            data, (interface, *_rest) = wire.recvfrom(2048)
            self.frames += 1
            sign = self._sign(data)
            if sign:
                with self._lock:
                    self.seen[interface, sign] += 1
                    self.examples.setdefault((interface, sign), data[:80].hex())

    def _sign(self, data: bytes) -> str:
        if MARKER in data:
            named = _ATTACK.search(data)
            return named[1].decode() if named else "words"
        if any(mac in data[:32] for mac in self._macs):
            return "mac"
        return "address" if any(alien in data[14:64] for alien in self._aliens) else ""

    def on(self, interface: str) -> dict[str, int]:
        """How often each sign was seen on an interface."""
        with self._lock:
            return {sign: n for (name, sign), n in self.seen.items() if name == interface}

    def forget(self) -> None:
        with self._lock:
            self.seen.clear()
            self.examples.clear()

    def lost(self) -> int:
        """Frames that the kernel could not keep for us since it was asked last."""
        answer = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        return int(struct.unpack("II", answer)[1])


class Ears(_Thread):
    """The host's services: listeners on all its addresses, and whatever else its stack accepts.

    A raw socket gets every datagram that the host takes as meant for itself, whether anybody
    listens on its port or not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._heard: Counter[str] = Counter()  # "udp4 listener: group4"
        for number, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                self._listen(number, family, kind)
            protocols = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
            icmp = socket.IPPROTO_ICMP if number == 4 else socket.IPPROTO_ICMPV6
            for protocol in (*protocols, icmp):
                raw = socket.socket(family, socket.SOCK_RAW, protocol)
                raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
                self._add(raw, partial(self._overhear, icmp=protocol == icmp))

    def _listen(self, number: int, family: int, kind: int) -> None:
        sock = socket.socket(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if number == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("::" if number == 6 else "0.0.0.0", TRAP))
        if kind == socket.SOCK_STREAM:
            sock.listen(100)
            self._add(sock, lambda sock: self._accept(sock, f"tcp{number} listener"))
        else:
            self._add(sock, lambda sock: self._answer(sock, f"udp{number} listener"))

    def _accept(self, sock: socket.socket, name: str) -> None:
        connection, peer = sock.accept()
        connection.close()
        self._note(f"{name}: connection from {peer[0]}")

    def _answer(self, sock: socket.socket, name: str) -> None:
        data, peer = sock.recvfrom(2048)
        self._note(f"{name}: {_attack(data)}")
        sock.sendto(b"heard you", peer)

    def _overhear(self, sock: socket.socket, *, icmp: bool) -> None:
        for _ in range(1000):
            data = sock.recv(65536)
            allowed = icmp and sock.family == socket.AF_INET6 and data[0] in ALLOWED_ICMP6
            if MARKER in data and not allowed:
                self._note(f"the host's own stack: {_attack(data)}")

    def _note(self, what: str) -> None:
        with self._lock:
            self._heard[what] += 1

    def all(self) -> dict[str, int]:
        with self._lock:
            return dict(self._heard)

    def forget(self) -> dict[str, int]:
        """What was heard; from now on it does not count."""
        with self._lock:
            heard, self._heard = self._heard, Counter()
            return dict(heard)


def _attack(data: bytes) -> str:
    named = _ATTACK.search(data)
    return named[1].decode() if named else repr(data[:40])


def addresses() -> dict[str, list[str]]:
    """The host's addresses by interface."""
    return {
        link["ifname"]: [info["local"] for info in link["addr_info"] if "local" in info]
        for link in _ip("addr", "show")
    }


def neighbours() -> dict[tuple[str, str], str]:
    """The host's neighbour tables: (interface, address) -> Ethernet address."""
    found = (*_ip("-4", "neigh", "show"), *_ip("-6", "neigh", "show"))
    return {(n["dev"], n["dst"]): n["lladdr"] for n in found if "lladdr" in n}


def ports(bridge: str) -> set[str]:
    """A bridge and what is plugged into it."""
    return {bridge, *(path.name for path in Path(f"/sys/class/net/{bridge}/brif").iterdir())}


def _ip(*command: str) -> list[dict[str, Any]]:
    shown = subprocess.run(["ip", "-json", *command], capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(shown.stdout or "[]")
    return found
