"""How a clone is found on its bridge."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.clone import discovery
from sandbox.core.deadline import Deadline
from sandbox.core.process import Completed
from sandbox.hosts.transport import HostLost, LocalHost
from tests.support.fakes.guest_world import port_of
from tests.support.machine.namespaces import GUEST_LL, MAC, Link, linked
from tests.support.machine.sshd import Sshd, running_sshd
from tests.support.waiting import soon, wait_until

MACS = st.lists(st.integers(0, 255), min_size=6, max_size=6).map(
    lambda octets: ":".join(f"{octet:02x}" for octet in octets)
)


TELL = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
    here.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    here.sendto(b"heard", ("198.18.7.255", 9))  # to all, so that nobody answers
"""


@pytest.mark.parametrize(
    ("mac", "address"),
    [
        ("34:56:78:9a:bc:de", "fe80::3656:78ff:fe9a:bcde"),  # the example of RFC 4291
        ("52:54:00:12:34:56", "fe80::5054:ff:fe12:3456"),
        ("00:16:3e:00:00:01", "fe80::216:3eff:fe00:1"),
    ],
)
def test_the_link_local_address_of_a_mac(mac: str, address: str) -> None:
    assert discovery.link_local(mac) == address


@given(MACS, MACS)
def test_different_cards_have_different_addresses(one: str, other: str) -> None:
    first, second = discovery.link_local(one), discovery.link_local(other)
    assert ipaddress.ip_address(first).is_link_local
    assert (first == second) == (one == other)


def test_the_kernel_agrees(link: Link) -> None:
    shown = link.run(link.guest, "ip", "-6", "addr", "show", "dev", "eth0")
    assert f"{discovery.link_local(MAC)}/64" in shown


def test_candidates_most_likely_first_and_each_once() -> None:
    found = discovery.candidates(
        [MAC, "52:54:00:00:00:02"],
        "sb123456",
        [(MAC, "198.18.0.10"), ("52:54:00:ff:ff:ff", "198.18.0.66")],
        ["fe80::abcd", GUEST_LL],
    )
    assert found == (
        f"{GUEST_LL}%sb123456",
        "fe80::5054:ff:fe00:2%sb123456",
        "fe80::abcd%sb123456",
        "198.18.0.10",
    )


# -- is it SSH? -------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Callable[[bytes], int]]:
    """Starts listeners that say something to whoever connects; gives their port."""
    listeners: list[socket.socket] = []

    def start(said: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            try:
                stream, _ = listener.accept()
            except OSError:  # the test is over
                return
            with stream:
                stream.sendall(said)
                stream.recv(1) if not said else None

        threading.Thread(target=serve, daemon=True).start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.close()


def test_only_a_banner_is_an_answer(server: Callable[[bytes], int]) -> None:
    assert LocalHost().answers_ssh("127.0.0.1", server(b"SSH-2.0-x\r\n"), 2)
    assert not LocalHost().answers_ssh("127.0.0.1", server(b"HTTP/1.1 400 \r\n"), 2)
    assert not LocalHost().answers_ssh("127.0.0.1", server(b""), 0.3), (
        "an open port is no booted guest"
    )


def test_nobody_there(server: Callable[[bytes], int]) -> None:
    assert not LocalHost().answers_ssh("127.0.0.1", 1, 1)
    assert not LocalHost().answers_ssh("fe80::1%nosuchbridge", 22, 1)
    assert not LocalHost().answers_ssh("no address", 22, 1)


def test_a_real_sshd_answers(tmp_path: Path) -> None:
    with running_sshd(tmp_path) as sshd:
        assert LocalHost().answers_ssh("127.0.0.1", port_of(sshd), 2)
        assert find(sshd, 3) == "127.0.0.1"
        assert find(sshd, 0) is None, "leases are asked for only every few rounds"


def find(sshd: Sshd, round: int) -> str | None:
    """With a lease for loopback as the only way."""
    leases = [(MAC, "127.0.0.1")]
    return discovery.find(LocalHost(), [MAC], "lo", port_of(sshd), lambda: leases, soon(), round)


# -- seen from another host -------------------------------------------------------------------


@dataclass
class Far:
    """A host behind ssh on whose bridge one address answers."""

    answering: str
    known: str = ""  # its neighbour table
    ran: list[tuple[str, ...]] = field(default_factory=list)
    tried: list[tuple[str, int, float]] = field(default_factory=list)
    name: str = "xen1"
    proxy_command: str = "ssh -W [%h]:%p xen1"

    def run(self, argv: Sequence[str | Path], deadline: Deadline, **options: object) -> Completed:
        words = tuple(str(word) for word in argv)
        self.ran.append(words)
        assert options.get("check") is False, "a guest is no fault of the host's"
        if words[0] == "ping":
            return Completed(words, 127, "", "sh: 1: ping: not found")
        return Completed(words, 0, self.known, "")

    def command(self, argv: Sequence[str]) -> list[str]:
        raise NotImplementedError

    def answers_ssh(self, address: str, port: int, seconds: float) -> bool:
        self.tried.append((address, port, seconds))
        return address == self.answering


NEIGHBOURS = f"""fe80::dead:beef lladdr {MAC} REACHABLE
fe80::1 lladdr 52:54:00:99:99:99 STALE
fe80::bad  FAILED
198.18.0.9 lladdr {MAC} REACHABLE
"""


def far(host: Far, round: int = 0, seconds: float = 20) -> str | None:
    leases = [(MAC, "198.18.0.10")]
    deadline = Deadline(seconds, "test")
    return discovery.find(host, [MAC], "sb123456", 22, lambda: leases, deadline, round)


def test_a_clone_on_another_host_is_tried_from_there() -> None:
    host = Far(f"{GUEST_LL}%sb123456")
    assert far(host) == f"{GUEST_LL}%sb123456"
    assert host.ran == [], "the costly ways are for later rounds"
    assert [(address, port) for address, port, _ in host.tried] == [(host.answering, 22)]


def test_the_other_ways_are_asked_for_there_as_well() -> None:
    host = Far("198.18.0.10", NEIGHBOURS)
    assert far(host) is None
    assert far(host, 3) == "198.18.0.10"
    tried = [address for address, _, _ in host.tried[1:]]
    assert tried == [f"{GUEST_LL}%sb123456", "fe80::dead:beef%sb123456", "198.18.0.10"]
    assert [words[0] for words in host.ran] == ["ping", "ip"], "it goes on without ping"
    assert all("sb123456" in " ".join(words) for words in host.ran)


def test_no_address_is_waited_for_past_the_deadline() -> None:
    host = Far("nobody")
    assert far(host, 3, seconds=1) is None
    assert all(0 < seconds <= 1 for _, _, seconds in host.tried)


# -- on a bridge ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    with linked() as made:
        made.close_gate()
        yield made


ASK = """
import sys
from sandbox.clone import discovery
from sandbox.core.deadline import Deadline
from sandbox.hosts.transport import LocalHost
bridge, *macs = sys.argv[1:]
print(*discovery.neighbours(LocalHost(), bridge, macs, Deadline(20, "test")))
print(discovery.find(LocalHost(), macs, bridge, 22, lambda: (), Deadline(20, "test"), 3))
"""


def test_a_guest_with_an_address_of_its_own_making_is_found(link: Link) -> None:
    """RFC 7217: the address says nothing of the MAC. Through the closed gate."""
    link.run(link.guest, "ip", "addr", "del", f"{GUEST_LL}/64", "dev", "eth0")
    link.run(link.guest, "ip", "addr", "add", "fe80::dead:beef/64", "dev", "eth0")
    with link.listening(link.guest, "::", 22):
        neighbours, found = link.python(link.host, ASK, link.network.bridge, MAC).splitlines()
    assert neighbours == "fe80::dead:beef"
    assert found == f"fe80::dead:beef%{link.network.bridge}"
    link.run(link.guest, "ip", "addr", "add", f"{GUEST_LL}/64", "dev", "eth0")


def test_another_machines_answer_is_not_our_guests(link: Link) -> None:
    said = link.python(link.host, ASK, link.network.bridge, "52:54:00:99:99:99").splitlines()
    assert said == ["None"] or said == ["", "None"]


class InHost(LocalHost):
    """Its commands run where the bridge is."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def run(self, argv: Sequence[str], *args: Any, **options: Any) -> Completed:
        return super().run(["ip", "netns", "exec", self.link.host, *argv], *args, **options)


class Unreachable(LocalHost):
    def run(self, *_args: Any, **_options: Any) -> Completed:
        raise HostLost("the host cannot be reached: no reason", "try: ssh host")


def test_what_the_guest_sends_ends_its_silence_and_what_it_hears_does_not(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_EVERY", 0.0)
    link.run(link.guest, "sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")  # it says nothing
    sending = discovery.Sending(InHost(link), link.network.bridge)
    assert sending.silence() == 0  # nobody has looked
    sending.look(soon())
    wait_until(lambda: sending.silence() > 0.2, "a silence that can be told from none")
    link.python(link.host, TELL)
    sending.look(soon())
    silent = sending.silence()
    assert silent > 0.2
    link.python(link.guest, TELL)
    sending.look(soon())
    assert sending.silence() < silent


def test_the_host_is_not_asked_at_every_glance() -> None:
    """Where Xen is emulated, asking at each of them cost as much as half the guest's start."""
    host = Far("nobody")
    sending = discovery.Sending(host, "sb123456")
    for _ in range(20):
        sending.look(soon())
    assert len(host.ran) == 1


@pytest.mark.parametrize("host", [LocalHost(), Unreachable()])
def test_a_host_that_does_not_count_tells_of_no_silence(host: LocalHost) -> None:
    sending = discovery.Sending(host, "nosuchbridge")
    sending.look(soon())
    assert sending.silence() == 0
