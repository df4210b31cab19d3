"""Listens at a clone's bridge and says what the clone tries to reach; run on the bridge's host.

Started by :mod:`sandbox.network.egress` as a program of its own, by its text, so that a host needs
nothing of ours: the standard library of Python 3.9 is enough. Each attempt is a line:
"tcp 192.0.2.7 443".

A guest sends nothing to an address whose neighbour does not answer, and asks no name server
either. So this program answers for every absent host, as a firewall that refuses would: every IPv4
neighbour is at one made-up Ethernet address, connections there are reset, datagrams are
unreachable, and name queries get a server failure. Nothing is passed on, and the host's own network
sees none of it: answers are frames to the clone's card, made here from the frames that it sent.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

SINK = b"\x02sink!"  # locally administered: no card has it
NAME_LIMIT = 253
_NOBODY = 65534
_ARP, _IPV4, _IPV6 = b"\x08\x06", b"\x08\x00", b"\x86\xdd"
_TCP, _UDP, _ICMP, _ICMP6 = 6, 17, 1, 58
_DESTINATIONS, _LINES_EACH, _LINES = 500, 200, 10_000  # what one clone can make us write
_MANY = 100  # attempts that are one line from then on
_FRAMES_PER_SECOND = 500  # what one clone can make us work: the rest waits, or is lost
_SNAP = 512
# linux/if_packet.h and asm-generic/socket.h
_ADD_MEMBERSHIP, _PROMISCUOUS, _IGNORE_OUTGOING, _SOL_PACKET, _ATTACH_FILTER = 1, 1, 23, 263, 26
_EVERYTHING = 3  # ETH_P_ALL

# The kernel gives us only what begins something: not the clone's packages, nor our SSH.
# (what to do, argument, where to go on if true, if false), as in linux/bpf_common.h.
_BYTE, _HALF, _INDEXED, _HEADER = 0x30, 0x28, 0x50, 0xB1
_AND, _JUMP, _EQUAL, _ANY, _RETURN = 0x54, 0x05, 0x15, 0x45, 0x06
_FILTER = (
    (_HALF, 12, 0, 0),
    (_EQUAL, 0x0806, 20, 0),
    (_EQUAL, 0x86DD, 10, 0),
    (_EQUAL, 0x0800, 0, 19),
    (_BYTE, 14 + 9, 0, 0),  # 4: IPv4's protocol
    (_EQUAL, _UDP, 16, 0),
    (_EQUAL, _ICMP, 15, 0),
    (_EQUAL, _TCP, 0, 15),
    (_HALF, 14 + 6, 0, 0),
    (_ANY, 0x1FFF, 13, 0),  # a fragment that is not the first
    (_HEADER, 14, 0, 0),
    (_INDEXED, 14 + 13, 0, 0),  # TCP's flags
    (_JUMP, 7, 0, 0),
    (_BYTE, 14 + 6, 0, 0),  # 13: IPv6's next header
    (_EQUAL, _UDP, 7, 0),
    (_EQUAL, _TCP, 3, 0),
    (_EQUAL, _ICMP6, 0, 6),
    (_BYTE, 54, 0, 0),
    (_EQUAL, 135, 3, 4),  # a neighbour solicitation
    (_BYTE, 54 + 13, 0, 0),  # 19: TCP's flags
    (_AND, 0x12, 0, 0),  # 20: SYN and ACK
    (_EQUAL, 2, 0, 1),
    (_RETURN, _SNAP, 0, 0),  # 22
    (_RETURN, 0, 0, 0),
)


class Datagram(NamedTuple):
    """What an IP packet carries; addresses as they are on the wire."""

    protocol: int
    source: bytes
    target: bytes
    body: bytes


class Attempt(NamedTuple):
    kind: str  # "name", "tcp", "udp", "ping", "neighbour"
    address: str  # or the name
    port: int


class StandIns(NamedTuple):
    """What stand-ins answer: names, and addresses with ports that are open."""

    names: Mapping[str, str] = {}
    open: frozenset[tuple[str, int]] = frozenset()


NOBODY = StandIns()


# -- what was tried: pure, and total over any bytes ---------------------------------------------


def attempts(frame: bytes) -> tuple[Attempt, ...]:
    """What a frame of the clone's tries to reach; nothing for what any guest says by itself."""
    kind = frame[12:14]
    if frame[6:12] == SINK:
        return ()  # a stand-in
    if kind == _ARP:
        return _neighbour4(frame)
    packet = _ip4(frame) if kind == _IPV4 else _ip6(frame) if kind == _IPV6 else None
    if packet is None:
        return ()
    if packet.protocol == _ICMP6:
        return _neighbour6(packet)
    if _is_for_many(packet.target) or packet.target[:2] == b"\xfe\x80":
        return ()  # DHCP, mDNS, LLMNR, IGMP and the like
    found = []
    port = int.from_bytes(packet.body[2:4], "big")
    name = _asked_name(packet)
    if name and not _is_own_name(name):
        found.append(Attempt("name", name, 0))
    if not _is_pool(packet.target):
        address = _text(packet.target)
        if packet.protocol == _TCP and len(packet.body) >= 14 and packet.body[13] & 0x12 == 2:
            found.append(Attempt("tcp", address, port))
        elif packet.protocol == _UDP and len(packet.body) >= 8:
            found.append(Attempt("udp", address, port))
        elif packet.protocol == _ICMP and packet.body[:1] == b"\x08":
            found.append(Attempt("ping", address, 0))
    return tuple(found)


def _neighbour4(frame: bytes) -> tuple[Attempt, ...]:
    target = _arp_target(frame)
    if target is None or _is_pool(target) or _is_for_many(target):
        return ()
    return (Attempt("neighbour", _text(target), 0),)


def _arp_target(frame: bytes) -> bytes | None:
    """Whose Ethernet address is wanted; not of those who only ask whether they are alone."""
    if len(frame) < 42 or frame[14:22] != b"\x00\x01\x08\x00\x06\x04\x00\x01":
        return None
    sender, target = frame[28:32], frame[38:42]
    return None if sender in (bytes(4), target) or target == bytes(4) else target


def _neighbour6(packet: Datagram) -> tuple[Attempt, ...]:
    target = packet.body[8:24]
    if packet.body[:1] != b"\x87" or len(target) < 16 or packet.source == bytes(16):
        return ()
    if target[:2] == b"\xfe\x80" or _is_for_many(target):
        return ()
    return (Attempt("neighbour", _text(target), 0),)


def _ip4(frame: bytes) -> Datagram | None:
    head = 4 * (frame[14] & 15) if len(frame) >= 34 else 0
    if head < 20 or frame[14] >> 4 != 4 or (frame[20] & 0x1F or frame[21]):
        return None  # a fragment that is not the first tells nothing
    return Datagram(frame[23], frame[26:30], frame[30:34], frame[14 + head :])


def _ip6(frame: bytes) -> Datagram | None:
    if len(frame) < 54 or frame[14] >> 4 != 6:
        return None
    return Datagram(frame[20], frame[22:38], frame[38:54], frame[54:])


def _asked_name(packet: Datagram) -> str:
    """The name that a DNS query asks for; "" for whatever is none."""
    question = _question(packet)
    labels = []
    while question[0]:
        label = question[1 : 1 + question[0]].decode("latin-1").lower()
        labels.append(re.sub(r"[^a-z0-9_-]", "?", label))
        question = question[1 + question[0] :]
    return ".".join(labels)


def _question(packet: Datagram) -> bytes:
    """The one question of a DNS query, well-formed; a zero for whatever is none."""
    query = packet.body[8:]
    if packet.protocol != _UDP or packet.body[2:4] != b"\x00\x35" or len(query) < 17:
        return b"\0"
    if query[2] & 0xF8 or query[4:6] != b"\x00\x01":  # an answer, another operation
        return b"\0"
    at = 12
    while at < len(query) and 0 < query[at] <= 63 and at <= 12 + NAME_LIMIT:
        at += 1 + query[at]
    whole = at + 5 <= len(query) and query[at] == 0 and at <= 12 + NAME_LIMIT
    return query[12 : at + 5] if whole else b"\0"


def _is_own_name(name: str) -> bool:
    """Asked by programs for the address that they themselves were asked from: the host's."""
    if not name.endswith(".arpa"):
        return False
    return name.endswith((".18.198.in-addr.arpa", ".19.198.in-addr.arpa", ".0.8.e.f.ip6.arpa"))


def _is_for_many(address: bytes) -> bool:
    if len(address) == 16:
        return address[0] == 0xFF
    return address[0] >= 224 or address[0] in (0, 127)


def _is_pool(address: bytes) -> bool:
    """Of the clones' own networks."""
    return len(address) == 4 and address[0] == 198 and address[1] in (18, 19)


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address)


# -- the answer: pure, and total ----------------------------------------------------------------


def answer(frame: bytes, there: StandIns = NOBODY) -> bytes:
    """What is said to the one who sent a frame; b"" for nothing."""
    card = frame[6:12]
    if len(frame) < 34 or card[0] & 1 or card == SINK:
        return b""
    if frame[12:14] == _ARP:
        return _here(frame, card)
    packet = _ip4(frame) if frame[12:14] == _IPV4 and frame[:6] == SINK else None
    if packet is None or _is_for_many(packet.target) or _is_for_many(packet.source):
        return b""
    back, body = card + SINK + _IPV4, packet.body
    if packet.protocol == _TCP and len(body) >= 20 and body[13] & 0x16 == 2:
        if (_text(packet.target), int.from_bytes(body[2:4], "big")) in there.open:
            return b""
        return back + _packet(packet, _TCP, _reset(packet))
    if packet.protocol == _UDP and len(body) >= 8:
        if name := _asked_name(packet):
            return back + _packet(packet, _UDP, _resolved(packet, there.names.get(name, "")))
        return back + _packet(packet, _ICMP, _unreachable(3, frame))
    if packet.protocol == _ICMP and body[:1] == b"\x08":
        return back + _packet(packet, _ICMP, _unreachable(1, frame))
    return b""


def _here(frame: bytes, card: bytes) -> bytes:
    target = _arp_target(frame)
    if target is None or _is_for_many(target):
        return b""
    if _is_pool(target) and target[3] != 2:
        return b""  # the host is really there; its second address is the router that DHCP names
    reply = b"\x00\x01\x08\x00\x06\x04\x00\x02" + SINK + target + card + frame[28:32]
    return card + SINK + _ARP + reply


def _reset(packet: Datagram) -> bytes:
    source, target, sequence = struct.unpack("!HHI", packet.body[:8])
    head = struct.pack("!HHIIBBHHH", target, source, 0, (sequence + 1) % 2**32, 0x50, 0x14, 0, 0, 0)
    pseudo = packet.target + packet.source + struct.pack("!HH", _TCP, len(head))
    return head[:16] + _checksum(pseudo + head) + head[18:]


def _resolved(packet: Datagram, address: str) -> bytes:
    """The query with its answer; without an address a server failure, as from a name server that
    reaches no other."""
    query, question = packet.body[8:], _question(packet)
    found = b""
    if address and question[-4:] == b"\0\1\0\1":
        found = b"\xc0\x0c\0\1\0\1" + struct.pack("!IH", 60, 4) + socket.inet_aton(address)
    flags = bytes([0x80 | query[2] & 1, 0x80 if address else 0x82])
    reply = query[:2] + flags + struct.pack("!4H", 1, 1 if found else 0, 0, 0) + question + found
    return packet.body[2:4] + packet.body[:2] + struct.pack("!HH", 8 + len(reply), 0) + reply


def _unreachable(code: int, frame: bytes) -> bytes:
    head = 4 * (frame[14] & 15)
    said = bytes([3, code, 0, 0]) + bytes(4) + frame[14 : 14 + head + 8]
    return said[:2] + _checksum(said) + said[4:]


def _packet(asked: Datagram, protocol: int, body: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, 64, protocol, 0)
    head += asked.target + asked.source
    return head[:10] + _checksum(head) + head[12:] + body


def _checksum(data: bytes) -> bytes:
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


# -- the program --------------------------------------------------------------------------------


def open_wire(bridge: str) -> socket.socket:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # nothing before the filter is there
    code = b"".join(struct.pack("HBBI", what, yes, no, k) for what, k, yes, no in _FILTER)
    kept = ctypes.create_string_buffer(code)
    program = struct.pack("HL", len(_FILTER), ctypes.addressof(kept))
    wire.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
    wire.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    wire.bind((bridge, _EVERYTHING))
    # A bridge sees frames to others than its host only so; the host's own stack drops them.
    member = struct.pack("iHH8s", socket.if_nametoindex(bridge), _PROMISCUOUS, 0, b"")
    wire.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, member)
    return wire


def become_nobody() -> None:
    """What a hostile guest sends is read by a process that may do nothing but this."""
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


class Notes:
    """Writes attempts down, in bounds: "full" once they do not fit any more."""

    def __init__(self) -> None:
        self._seen: dict[Attempt, int] = {}
        self._lines = 0
        self._full = False

    def take(self, attempt: Attempt) -> None:
        times = self._seen.get(attempt, 0)
        if self._full:
            return
        if times >= _LINES_EACH:
            self._take_one_of_many(attempt, times + 1)
            return
        if self._lines >= _LINES or (not times and len(self._seen) >= _DESTINATIONS):
            self._full = True
            print("full", flush=True)
            return
        self._seen[attempt] = times + 1
        self._lines += 1
        print(*attempt, flush=True)

    def _take_one_of_many(self, attempt: Attempt, times: int) -> None:
        """That it goes on is known; half of the room is left for other destinations."""
        self._seen[attempt] = times
        if times % _MANY == 0 and self._lines < _LINES / 2:
            self._lines += 1
            print(_MANY, *attempt, flush=True)


def listen(wire: socket.socket, there: StandIns) -> None:
    notes, names = Notes(), {address: name for name, address in there.names.items()}
    second, left = time.monotonic(), _FRAMES_PER_SECOND
    while True:
        frame = wire.recv(_SNAP)
        for attempt in attempts(frame):
            notes.take(attempt._replace(address=names.get(attempt.address, attempt.address)))
        reply = answer(frame, there)
        if reply:
            with contextlib.suppress(OSError):  # no room, or the bridge is gone: asked above
                wire.send(reply)
        left -= 1
        now = time.monotonic()
        if now >= second + 1:
            second, left = now, _FRAMES_PER_SECOND
        elif left <= 0:
            time.sleep(second + 1 - now)


def main() -> None:
    os.nice(5)
    known = json.loads(sys.argv[4])
    there = StandIns(known["names"], frozenset(map(tuple, known["open"])))
    try:
        wire = open_wire(sys.argv[2])
        become_nobody()
    except OSError as problem:
        sys.exit(f"cannot listen at the bridge: {problem}")
    print("listening", flush=True)
    try:
        listen(wire, there)
    except OSError as problem:
        if problem.errno != errno.ENETDOWN:  # the bridge is gone
            sys.exit(str(problem))


if __name__ == "__main__":
    main()
