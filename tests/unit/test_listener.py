"""What a clone's frames say of where it wants to go, and what it is answered."""

from __future__ import annotations

import ast
import socket
import struct
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.hosts.transport import LocalHost, by_text
from sandbox.network import egress_listener, stand_in_server
from sandbox.network.egress_listener import NAME_LIMIT, SINK, Attempt, Notes, answer, attempts

CARD = bytes.fromhex("525400123456")
HOST_CARD = bytes.fromhex("fe5400000001")
GUEST, ROUTER, FAR = "198.18.7.10", "198.18.7.2", "203.0.113.7"
MINE6, FAR6 = "2001:db8::10", "2001:db8::7"


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def frame(kind: int, body: bytes, to: bytes = SINK) -> bytes:
    return to + CARD + struct.pack("!H", kind) + body


def ip(protocol: int, body: bytes, target: str, source: str = GUEST, to: bytes = SINK) -> bytes:
    if ":" in target:
        head = struct.pack("!IHBB", 6 << 28, len(body), protocol, 64)
        return frame(0x86DD, head + packed(source) + packed(target) + body, to)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0)
    return frame(0x0800, head + packed(source) + packed(target) + body, to)


def tcp(target: str, port: int, flags: int = 2, source: str = GUEST) -> bytes:
    body = struct.pack("!HHIIBBHHH", 40000, port, 7, 0, 0x50, flags, 1024, 0, 0)
    return ip(6, body, target, source)


def udp(target: str, port: int, data: bytes = b"hello", own: int = 40000, **more: str) -> bytes:
    return ip(17, struct.pack("!HHHH", own, port, 8 + len(data), 0) + data, target, **more)


def query(name: str, flags: int = 0x0100, questions: int = 1) -> bytes:
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    return struct.pack("!6H", 4711, flags, questions, 0, 0, 0) + labels + b"\0\0\1\0\1"


def arp(target: str, sender: str = GUEST, operation: int = 1) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return frame(0x0806, head + CARD + packed(sender) + bytes(6) + packed(target), b"\xff" * 6)


def solicit(target: str, source: str = MINE6) -> bytes:
    return ip(58, b"\x87\0\0\0" + bytes(4) + packed(target), "ff02::1:ff00:7", source)


# -- what was tried -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tcp(FAR, 443), [("tcp", FAR, 443)]),
        (tcp(FAR6, 443, source=MINE6), [("tcp", FAR6, 443)]),
        (udp(FAR, 514), [("udp", FAR, 514)]),
        (udp(FAR6, 123, source=MINE6), [("udp", FAR6, 123)]),
        (ip(1, b"\x08\0\0\0\0\1\0\1", FAR), [("ping", FAR, 0)]),
        (arp("10.0.0.1", "10.0.0.5"), [("neighbour", "10.0.0.1", 0)]),
        (solicit(FAR6), [("neighbour", FAR6, 0)]),
        (udp(ROUTER, 53, query("Telemetry.Example")), [("name", "telemetry.example", 0)]),
        (
            udp("192.0.2.53", 53, query("a.example")),
            [("name", "a.example", 0), ("udp", "192.0.2.53", 53)],
        ),
    ],
)
def test_an_attempt_is_told(data: bytes, expected: list[tuple[str, str, int]]) -> None:
    assert list(attempts(data)) == expected


@pytest.mark.parametrize(
    "data",
    [
        tcp(FAR, 443, flags=0x10),  # what follows
        tcp(FAR, 443, flags=0x12),  # an answer: our own SSH
        arp(FAR, operation=2),
        arp("10.0.0.5", "10.0.0.5"),  # it tells its own address
        arp("10.0.0.5", "0.0.0.0"),  # it asks whether it is alone
        arp(ROUTER),
        solicit("fe80::1"),
        solicit(FAR6, "::"),
        udp("255.255.255.255", 67, own=68, source="0.0.0.0"),
        udp("198.18.7.1", 67, own=68),
        udp("224.0.0.251", 5353, query("printer.local")),
        udp("ff02::1:2", 547, own=546, source="fe80::2"),
        udp("fe80::1", 9, source="fe80::2"),
        udp(ROUTER, 53, query("1.7.18.198.in-addr.arpa")),
        udp(ROUTER, 53, query("a.example", flags=0x8180)),
        udp(ROUTER, 53, query("a.example", questions=2)),
        udp(ROUTER, 53, query("a.example")[:-6]),
    ],
)
def test_what_any_guest_says_by_itself_is_left_out(data: bytes) -> None:
    assert attempts(data) == ()


def test_a_name_is_one_word_of_plain_letters() -> None:
    evil = b"\x09a b\n\x1b\xff<;.\x07example\0\0\1\0\1"
    (found,) = attempts(udp(ROUTER, 53, query("x")[:12] + evil))
    assert found == Attempt("name", "a?b??????.example", 0)


def test_a_name_without_an_end_is_none() -> None:
    assert attempts(udp(ROUTER, 53, query("x")[:12] + b"\x01a" * 300)) == ()


heads = st.sampled_from((b"\x08\x06", b"\x08\x00", b"\x86\xdd", b"\x81\x00"))
KINDS = ("name", "tcp", "udp", "ping", "neighbour")


@given(
    st.one_of(
        st.binary(max_size=600),
        st.builds(lambda kind, body: SINK + CARD + kind + body, heads, st.binary(max_size=600)),
        st.builds(lambda data: udp(FAR, 53, data), st.binary(max_size=600)),
        st.builds(
            lambda protocol, body, target: ip(protocol, body, target, MINE6),
            st.integers(0, 255),
            st.binary(max_size=100),
            st.sampled_from((FAR6, "ff02::1", "fe80::1")),
        ),
    )
)
def test_no_bytes_do_harm(data: bytes) -> None:
    for kind, address, port in attempts(data):
        assert kind in KINDS
        assert 0 < len(address) <= NAME_LIMIT
        assert address.isascii()
        assert address.isprintable()
        assert " " not in address
        assert 0 <= port <= 65535
    said = answer(data)
    assert said == b"" or said[:12] == data[6:12] + SINK
    assert len(said) <= max(60, len(data) + 60)


@given(st.binary(min_size=6, max_size=6), st.binary(max_size=80))
def test_only_the_one_who_asked_is_answered(card: bytes, rest: bytes) -> None:
    """Never a group's address: a bridge would hand that to the host."""
    for data in (tcp(FAR, 443), arp(FAR), udp(FAR, 53, query("a.example") + rest)):
        said = answer(data[:6] + card + data[12:])
        assert said[:6] == (b"" if card[0] & 1 or card == SINK else card)


# -- what is answered ---------------------------------------------------------------------------


def test_a_neighbour_is_at_nobodys_address() -> None:
    said = answer(arp("10.0.0.1", "10.0.0.5"))
    assert said[20:] == b"\0\2" + SINK + packed("10.0.0.1") + CARD + packed("10.0.0.5")


@pytest.mark.parametrize("target", ["198.18.7.1", "198.18.7.10", "198.19.255.1"])
def test_nobody_answers_for_the_host_or_the_guest(target: str) -> None:
    assert answer(arp(target, "198.18.7.11")) == b""
    assert answer(arp("198.18.7.2", "198.18.7.11")) != b""


@pytest.mark.parametrize(
    "data",
    [
        HOST_CARD + tcp(FAR, 443)[6:],  # to the host's own card
        HOST_CARD + udp("198.18.7.1", 53, query("a.example"))[6:],
        tcp(FAR, 443, flags=0x10),
        tcp(FAR, 443, flags=0x04),
        udp("224.0.0.251", 5353),
        udp(FAR, 9, source="0.0.0.0"),
        tcp(FAR6, 443, source=MINE6),
        arp("10.0.0.5", "10.0.0.5"),
        arp("10.0.0.5", "0.0.0.0"),
    ],
)
def test_what_is_not_for_it_has_no_answer(data: bytes) -> None:
    assert answer(data) == b""


# -- the program --------------------------------------------------------------------------------


def test_notes_are_kept_in_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    notes = Notes()
    for _ in range(5000):
        notes.take(Attempt("tcp", FAR, 1))
    for port in range(2000):
        notes.take(Attempt("tcp", FAR, port))
    lines = capsys.readouterr().out.splitlines()
    assert lines.count(f"tcp {FAR} 1") == 200
    assert lines.count(f"100 tcp {FAR} 1") == 48, "that it went on is known"
    assert len(set(lines)) == 500 + 2
    assert lines[-1] == "full"
    assert lines.count("full") == 1


def test_many_lines_in_all_are_kept_in_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    notes = Notes()
    for _ in range(150):
        for port in range(100):
            notes.take(Attempt("tcp", FAR, port))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10_001
    assert lines[-1] == "full"


def test_one_destination_does_not_take_the_others_room(
    capsys: pytest.CaptureFixture[str],
) -> None:
    notes = Notes()
    for _ in range(1_200_000):
        notes.take(Attempt("tcp", FAR, 1))
    notes.take(Attempt("tcp", FAR, 2))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5_001
    assert lines[-1] == f"tcp {FAR} 2"


@pytest.mark.parametrize("program", [egress_listener, stand_in_server])
def test_it_needs_nothing_but_an_older_pythons_standard_library(program: ModuleType) -> None:
    text = by_text(LocalHost(), program.__name__)[-1]
    assert text == Path(str(program.__file__)).read_text()
    tree = ast.parse(text, feature_version=(3, 9))
    used = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert {str(name).partition(".")[0] for name in used} <= sys.stdlib_module_names
    assert len(text) < 100_000, "a program's argument has 128 KiB"
