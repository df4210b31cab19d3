"""What a hostile clone does from its first second on; runs inside the guest, standard library only.

It listens to learn who is there, then sends everything that it can think of to everybody: with
the kernel's own sockets, and with frames that no kernel would make. Every payload carries MARKER
and the name of the attack, so that a capture on the host cannot take it for anything else. What
answers is written to REACHED.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MARKER = b"HOSTILE-CLONE-7f3a9c51"
TRAP = 45871  # a port on which the host listens, by TCP and UDP, on all its addresses
TCP_PORTS = (22, 53, 80, 16509, TRAP)
UDP_PORTS = (53, 67, 123, TRAP)
SOURCE_PORT = 47811
EVIL_MAC = bytes.fromhex("02bad0c0ffee")
# Addresses that nobody has; the first two lie in production's and in the host's own network.
ALIENS = ("198.51.100.77", "192.0.2.77", "203.0.113.77")
POOL = ("198.18.", "198.19.")  # the clones' own networks
METADATA = "169.254.169.254"
OUTSIDE = "2001:db8::77"
TARGETS = Path("/etc/hostile.json")
FOLDER = Path("/run/hostile")
REACHED, ROUNDS = FOLDER / "reached", FOLDER / "rounds"
ATTACKS = (
    *("udp4", "tcp4", "icmp4", "udp6", "tcp6", "multicast6", "echo-reply6", "router6"),
    *("neighbour6", "arp", "vlan", "dhcp-server", "dhcp-outside", "group4", "group6"),
    *("lldp", "stp", "ethertype", "socket-udp4", "socket-udp6"),
)
BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("0180c20000")  # and one more byte, below 0x10
KINDS = ((socket.SOCK_STREAM, TCP_PORTS), (socket.SOCK_DGRAM, UDP_PORTS))
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23  # linux/if_packet.h
IPV4, IPV6, ARP, VLAN = 0x0800, 0x86DD, 0x0806, 0x8100


def words(attack: str) -> bytes:
    return MARKER + b":" + attack.encode() + b";"


# -- packets ------------------------------------------------------------------------------------


def checksum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def ip4(source: str, target: str, protocol: int, body: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0)
    head += packed(source) + packed(target)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def ip6(source: str, target: str, protocol: int, body: bytes, hops: int = 255) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(body), protocol, hops)
    return head + packed(source) + packed(target) + body


def summed(source: str, target: str, protocol: int, body: bytes, at: int) -> bytes:
    """The body with its checksum over the pseudo header put in at an offset."""
    pseudo = packed(source) + packed(target) + struct.pack("!II", len(body), protocol)
    return body[:at] + struct.pack("!H", checksum(pseudo + body)) + body[at + 2 :]


def udp(source: str, target: str, to: int, payload: bytes, by: int = SOURCE_PORT) -> bytes:
    body = struct.pack("!HHHH", by, to, 8 + len(payload), 0) + payload
    return _wrap(source, target, 17, summed(source, target, 17, body, 6))


def syn(source: str, target: str, to: int, payload: bytes) -> bytes:
    head = struct.pack("!HHIIBBHHH", SOURCE_PORT, to, 1, 0, 0x50, 2, 1024, 0, 0)
    return _wrap(source, target, 6, summed(source, target, 6, head + payload, 16))


def icmp6(source: str, target: str, kind: int, rest: bytes) -> bytes:
    body = struct.pack("!BBH", kind, 0, 0) + rest
    return _wrap(source, target, 58, summed(source, target, 58, body, 2))


def option6(said: bytes) -> bytes:
    """An option of neighbour discovery, of a kind that nobody knows: its length counts eights."""
    eights = -(-(len(said) + 2) // 8)
    return bytes([253, eights]) + said.ljust(eights * 8 - 2)


def _wrap(source: str, target: str, protocol: int, body: bytes) -> bytes:
    return (ip6 if ":" in target else ip4)(source, target, protocol, body)


def frame(target: bytes, source: bytes, kind: int, body: bytes) -> bytes:
    return target + source + struct.pack("!H", kind) + body


def link_local(mac: bytes) -> str:
    eui = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + bytes(6) + eui)


# -- the attacker -------------------------------------------------------------------------------


class Attacker:
    """One network card, what was heard on it, and what is known of the world."""

    def __init__(self, number: int, world: dict[str, list[str]]) -> None:
        self.number = number  # its name may change while the guest boots
        self.world = world
        address = Path(f"/sys/class/net/{self.card}/address").read_text()
        self.mac = bytes.fromhex(address.replace(":", ""))
        self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.wire.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.wire.bind((self.card, 0))
        self.wire.setblocking(False)
        self.macs = {BROADCAST}
        self.heard: set[str] = set()  # addresses of whoever was heard

    @property
    def card(self) -> str:
        return socket.if_indextoname(self.number)

    def listen(self) -> None:
        while True:
            try:
                data = self.wire.recv(2048)
            except BlockingIOError:
                return
            source, kind = data[6:12], int.from_bytes(data[12:14], "big")
            self.macs.add(source)
            if kind == IPV4:
                self.heard.add(socket.inet_ntoa(data[26:30]))
            elif kind == ARP:
                self.heard.add(socket.inet_ntoa(data[28:32]))
            elif kind == IPV6:
                self.heard.add(socket.inet_ntop(socket.AF_INET6, data[22:38]))

    def targets(self, family: int) -> list[str]:
        known = {*self.heard, *self.world["addresses"], METADATA, "127.0.0.1"}
        known |= {"fe80::1", OUTSIDE, link_local(b"\xfe" + self.mac[1:])}
        nobody = ("0.0.0.0", "::")
        return sorted(a for a in known if (":" in a) == (family == 6) and a not in nobody)

    def frames(self) -> Iterator[bytes]:
        """Frames of every kind, to everybody that was heard, from MACs that are not ours."""
        packets = list(self.packets())
        for mac in sorted(self.macs):
            for liar in (self.mac, EVIL_MAC, bytes.fromhex(self.world["mac"][0])):
                for kind, packet in packets:
                    yield frame(mac, liar, kind, packet)
        yield from self.odd_frames()

    def packets(self) -> Iterator[tuple[int, bytes]]:
        sources = (*ALIENS, *self.world["production"])
        for number, target in enumerate(self.targets(4)):
            source = sources[number % len(sources)]
            for port in UDP_PORTS:
                yield IPV4, udp(source, target, port, words("udp4"))
            for port in TCP_PORTS:
                yield IPV4, syn(source, target, port, words("tcp4"))
            echo = struct.pack("!BBHI", 8, 0, 0, 1) + words("icmp4")
            echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
            yield IPV4, ip4(source, target, 1, echo)
            if not target.startswith(POOL):
                yield IPV4, udp(source, target, 67, words("dhcp-outside"), by=68)
        mine = link_local(self.mac)
        for target in self.targets(6):
            source = mine if target.startswith("fe80") else OUTSIDE
            for port in UDP_PORTS:
                yield IPV6, udp(source, target, port, words("udp6"))
            for port in TCP_PORTS:
                yield IPV6, syn(source, target, port, words("tcp6"))
            if not target.startswith("fe80"):
                yield IPV6, icmp6(source, target, 129, bytes(4) + words("echo-reply6"))
                yield IPV6, udp(source, target, 67, words("dhcp-outside"), by=68)

    def odd_frames(self) -> Iterator[bytes]:
        mine = link_local(self.mac)
        everybody = bytes.fromhex("333300000001")
        for group in ("ff02::1", "ff02::2", "ff02::fb"):
            mac = b"\x33\x33" + packed(group)[12:]
            yield frame(mac, self.mac, IPV6, udp(mine, group, TRAP, words("multicast6")))
        # A router for everything, and one that asks; options of an unknown kind hold the words.
        option = option6(words("router6"))
        rogue = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + option
        yield frame(everybody, self.mac, IPV6, icmp6(mine, "ff02::1", 134, rogue))
        yield frame(everybody, self.mac, IPV6, icmp6(mine, "ff02::2", 133, bytes(4) + option))
        option = option6(words("neighbour6"))
        for address in self.world["addresses"]:
            if ":" in address:
                lie = struct.pack("!I", 0x20000000) + packed(address) + b"\x02\x01" + EVIL_MAC
                yield frame(everybody, EVIL_MAC, IPV6, icmp6(mine, "ff02::1", 136, lie + option))
                continue
            who = EVIL_MAC + packed(address)
            for kind, whom in ((1, bytes(6) + packed(address)), (2, BROADCAST + packed(address))):
                lie = struct.pack("!HHBBH", 1, IPV4, 6, 4, kind) + who + whom + words("arp")
                yield frame(BROADCAST, EVIL_MAC, ARP, lie)
        for target in (*self.targets(4), *self.targets(6)):
            kind, source = (IPV6, mine) if ":" in target else (IPV4, ALIENS[0])
            name = "group6" if ":" in target else "group4"
            inner = struct.pack("!H", kind) + udp(source, target, TRAP, words("vlan"))
            for vlan in (0, 1, 100):
                yield frame(BROADCAST, self.mac, VLAN, struct.pack("!H", vlan) + inner)
            # IEEE 802.1D's own addresses: a bridge treats them unlike any others.
            for last in range(16):
                special = GROUP + bytes([last])
                yield frame(special, self.mac, kind, udp(source, target, TRAP, words(name)))
        offer = struct.pack("!BBBBI", 2, 1, 6, 0, 7).ljust(236, b"\0") + b"\x63\x82\x53\x63"
        offer += b"\x35\x01\x02\x03\x04" + packed(ALIENS[0]) + b"\xff" + words("dhcp-server")
        answer = udp(ALIENS[0], "255.255.255.255", 68, offer, by=67)
        yield frame(BROADCAST, self.mac, IPV4, answer)
        station, bridge = GROUP + b"\x0e", GROUP + b"\x00"
        yield frame(station, self.mac, 0x88CC, b"\x02\x07\x04" + words("lldp"))
        yield frame(bridge, self.mac, 38, b"\x42\x42\x03" + bytes(4) + words("stp"))
        yield frame(BROADCAST, self.mac, 0x88B5, words("ethertype"))

    # -- with the kernel's own sockets ----------------------------------------------------------

    def settle_in(self) -> None:
        """Addresses and routes that lead everywhere by whoever was heard; errors do not matter."""
        commands = [["addr", "add", f"{alien}/24", "dev", self.card] for alien in ALIENS[:2]]
        for gateway in self.heard:
            if gateway.startswith(POOL):
                commands.append(["route", "replace", "default", "via", gateway, "dev", self.card])
            elif gateway.startswith("fe80"):
                via = ["default", "via", gateway, "dev", self.card]
                commands.append(["-6", "route", "replace", *via, "metric", "1"])
                commands.append(["-6", "addr", "add", f"{OUTSIDE}/64", "dev", self.card, "nodad"])
        for command in commands:
            subprocess.run(["ip", *command], check=False, capture_output=True)

    def knock(self) -> Iterator[str]:
        """Connect to every port of everybody; what answered."""
        waiting: dict[socket.socket, str] = {}
        for number in (4, 6):
            family = socket.AF_INET6 if number == 6 else socket.AF_INET
            for target in self.targets(number):
                if target == "127.0.0.1" or target in (link_local(self.mac), OUTSIDE):
                    continue  # these are ourselves
                for kind, ports in KINDS:
                    for port in ports:
                        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
                        if self._begin(sock, kind, target, port):
                            name = "tcp" if kind == socket.SOCK_STREAM else "udp"
                            waiting[sock] = f"{name} {target} {port}"
                        else:
                            sock.close()
        until = time.monotonic() + 2
        while waiting and (left := until - time.monotonic()) > 0:
            tcp = [s for s, name in waiting.items() if name.startswith("tcp")]
            readable, writable, _ = select.select(list(waiting), tcp, [], left)
            for sock in {*readable, *writable}:
                name = waiting.pop(sock)
                if self._answered(sock, name):
                    yield name
                sock.close()
        for sock in waiting:
            sock.close()

    def _begin(self, sock: socket.socket, kind: int, target: str, port: int) -> bool:
        scope = socket.if_nametoindex(self.card) if target.startswith("fe80") else 0
        where = (target, port, 0, scope) if ":" in target else (target, port)
        try:
            status = sock.connect_ex(where)
            if kind == socket.SOCK_DGRAM and status == 0:
                sock.send(words("socket-udp6" if ":" in target else "socket-udp4"))
        except OSError:
            return False
        return status in (0, errno.EINPROGRESS)

    @staticmethod
    def _answered(sock: socket.socket, name: str) -> bool:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
            return False  # unreachable; a refusal of the host would be one of its answers
        if name.startswith("tcp"):
            return True
        try:
            return bool(sock.recv(100))
        except OSError:
            return False


def attempt(action: Callable[..., object], *args: object) -> None:
    try:
        action(*args)
    except OSError as problem:
        print(problem, file=sys.stderr)


def main() -> None:
    world = json.loads(TARGETS.read_text())
    FOLDER.mkdir(exist_ok=True)
    REACHED.touch()
    cards: list[Attacker] = []
    rounds = 0
    while True:
        known = {attacker.number for attacker in cards}
        for number, name in socket.if_nameindex():
            if name != "lo" and number not in known:
                cards.append(Attacker(number, world))
        for attacker in cards:
            attempt(attacker.listen)
            for data in attacker.frames():
                attempt(attacker.wire.send, data)
            attempt(attacker.settle_in)
            for name in attacker.knock():
                with REACHED.open("a") as file:
                    file.write(name + "\n")
        rounds += 1
        ROUNDS.write_text(str(rounds))
        time.sleep(1)


if __name__ == "__main__":
    main()
