"""The ledger: a real program at a real bridge, a guest's own kernel behind it, and its notes."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox.clone.reaper import remove_run
from sandbox.core.records import Destination, Ledger
from sandbox.core.settings import Settings
from sandbox.core.store import RunFolder, Store
from sandbox.hosts import transport
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.transport import Host, LocalHost
from sandbox.network import egress
from sandbox.network.egress_listener import answer
from sandbox.report.view import view
from tests.support.fakes.sample_records import passed
from tests.support.fakes.stage import Stage, commands_with
from tests.support.machine.namespaces import GUEST, HOST, Link, linked
from tests.support.machine.processes import is_running
from tests.support.waiting import holds_soon
from tests.unit.test_listener import arp

ROUTER, FAR, NEAR, RESOLVER = "198.18.7.2", "203.0.113.7", "192.0.2.9", "192.0.2.53"
# What a guest's programs see of it, with its own kernel's sockets.
TRY = """
import socket, sys
kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
with socket.socket(socket.AF_INET, getattr(socket, kind)) as sock:
    sock.settimeout(20)
    try:
        sock.connect((address, port))
        sock.send(bytes.fromhex(sys.argv[4]))
        print(sock.recv(512).hex())
    except OSError as problem:
        print(type(problem).__name__)
"""
QUERY = "1267010000010000000000010974656c656d65747279076578616d706c650000010001"
EDNS = "0000291000000000000000"


@dataclass
class Away(LocalHost):
    """The host's side of a link."""

    namespace: str = ""
    program: str = ""

    def command(self, argv: Sequence[str]) -> list[str]:
        return [self.program or "ip", "netns", "exec", self.namespace, *argv]


@pytest.fixture
def folder() -> Iterator[RunFolder]:
    with tempfile.TemporaryDirectory(prefix="sbtest-") as state:
        made = Store(Settings(state=Path(state))).create()
        yield made
        remove_run(FakeHypervisor(), made)


@pytest.fixture
def link(folder: RunFolder) -> Iterator[Link]:
    """With the gate closed, a way out that leads to nobody, and somebody who listens."""
    with linked() as made:
        made.close_gate()
        made.run(made.guest, "ip", "route", "add", "default", "via", ROUTER)
        made.run(made.guest, "ip", "addr", "add", "192.0.2.10/24", "dev", "eth0")
        egress.listen(Away(made.host), made.network.bridge, folder)
        assert holds_soon(lambda: "listening\n" in notes(folder), 20)
        yield made


def notes(folder: RunFolder) -> str:
    return (folder.clone / "tried").read_text()


def tries(link: Link, kind: str, address: str, port: int, data: str = "00") -> str:
    return link.python(link.guest, TRY, kind, address, port, data)


def found(folder: RunFolder, switch: int | None = None) -> Ledger:
    read = egress.read(folder, switch)
    assert read is not None
    return read


def waited(folder: RunFolder, line: str) -> None:
    assert holds_soon(lambda: f"{line}\n" in notes(folder), 20), notes(folder)


def test_what_a_guest_tries_is_heard_and_refused_at_once(link: Link, folder: RunFolder) -> None:
    assert tries(link, "SOCK_STREAM", FAR, 443) == "ConnectionRefusedError"
    assert tries(link, "SOCK_DGRAM", FAR, 514) == "ConnectionRefusedError"
    assert tries(link, "SOCK_STREAM", NEAR, 25) == "ConnectionRefusedError"
    waited(folder, f"tcp {NEAR} 25")
    switch = egress.position(folder)
    assert tries(link, "SOCK_STREAM", FAR, 443) == "ConnectionRefusedError"
    # The server failed (2), as one does that reaches nobody; the question comes back with it.
    answer = tries(link, "SOCK_DGRAM", RESOLVER, 53, QUERY + EDNS)
    assert answer == QUERY.replace("12670100", "12678182").replace("0000000001", "0000000000")
    waited(folder, f"udp {RESOLVER} 53")
    assert found(folder, switch).missing == ""
    assert found(folder, switch).destinations == (
        Destination(kind="name", address="telemetry.example", after=1),
        Destination(kind="udp", address=RESOLVER, port=53, after=1),
        Destination(kind="tcp", address=FAR, port=443, before=1, after=1),
        Destination(kind="udp", address=FAR, port=514, before=1),
        Destination(kind="tcp", address=NEAR, port=25, before=1),
    )


def test_nothing_of_the_host_is_reached_by_it(link: Link, folder: RunFolder) -> None:
    """The host has an address outside, too, and is a router."""
    link.run(link.host, "ip", "addr", "add", f"{FAR}/32", "dev", "lo")
    link.run(link.host, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    with link.listening(link.host, "0.0.0.0", 80):
        assert tries(link, "SOCK_STREAM", FAR, 80) == "ConnectionRefusedError"
        waited(folder, f"tcp {FAR} 80")
        # Not even without the gate: what goes out by the router is sent to nobody's card.
        link.run(link.host, "nft", "flush", "ruleset")
        assert tries(link, "SOCK_STREAM", FAR, 80) == "ConnectionRefusedError"
        assert link.from_guest(HOST, 80) == "SSH-2.0-test", "nobody would have listened"


def test_our_own_way_in_is_not_heard(link: Link, folder: RunFolder) -> None:
    with link.listening(link.guest, "0.0.0.0", 22):
        assert link.from_host(GUEST, 22) == "SSH-2.0-test"
    assert tries(link, "SOCK_STREAM", FAR, 1) == "ConnectionRefusedError"
    waited(folder, f"tcp {FAR} 1")
    assert [one.port for one in found(folder).destinations] == [1]


def test_neighbours_are_heard_where_nothing_more_is_sent(link: Link, folder: RunFolder) -> None:
    link.run(link.guest, "ip", "-6", "addr", "add", "2001:db8::10/64", "dev", "eth0", "nodad")
    link.run(link.guest, "ip", "-6", "route", "add", "default", "via", "2001:db8::1")
    link.python(
        link.guest,
        "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
        "s.sendto(b'', ('2001:db8:7::1', 9))",
    )
    waited(folder, "neighbour 2001:db8::1 0")
    assert Destination(kind="neighbour", address="2001:db8::1", before=1) in [
        one.model_copy(update={"before": 1}) for one in found(folder).destinations
    ]


def test_it_ends_with_the_bridge_and_is_nobody_until_then(link: Link, folder: RunFolder) -> None:
    (program,) = folder.processes()
    status = Path(f"/proc/{program.pid}/status").read_text()
    assert "\nUid:\t65534\t65534\t65534\t65534\n" in status
    assert "\nCapEff:\t0000000000000000\n" in status
    assert is_running(program.pid)
    link.run(link.host, "ip", "link", "del", link.network.bridge)
    assert holds_soon(lambda: not is_running(program.pid), 20)
    assert notes(folder) == "listening\n"
    assert "only for a while" in found(folder).missing


def test_it_listens_on_every_kind_of_host_and_ends_there(machine: Host, folder: RunFolder) -> None:
    """Through a real sshd as well, with nothing of ours at its end."""
    bridge, ask = f"sbt{secrets.token_hex(3)}", arp("192.0.2.1", "192.0.2.9")
    for words in (
        ("add", bridge, "type", "bridge"),
        ("add", f"{bridge}-0", "master", bridge, "type", "veth", "peer", "name", f"{bridge}-g"),
        *(("set", name, "up") for name in (bridge, f"{bridge}-0", f"{bridge}-g")),
    ):
        subprocess.run(["ip", "link", *words], check=True)
    try:
        egress.listen(machine, bridge, folder)
        assert holds_soon(lambda: "listening\n" in notes(folder), 20), notes(folder)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as guest:
            guest.bind((f"{bridge}-g", 0x0806))
            guest.settimeout(20)
            guest.send(ask)
            assert guest.recv(100)[:42] == answer(ask)
        waited(folder, "neighbour 192.0.2.1 0")
        assert commands_with(f"{egress.LISTENER} {bridge}") != []
    finally:
        subprocess.run(["ip", "link", "del", f"{bridge}-g"], check=True)
        subprocess.run(["ip", "link", "del", bridge], check=True)
    assert holds_soon(lambda: commands_with(f"{egress.LISTENER} {bridge}") == [], 20)


def test_a_listener_that_nobody_wrote_down_is_found_and_ended(
    link: Link, folder: RunFolder
) -> None:
    """As after a kill between its start and its note."""
    (program,) = folder.processes()
    (folder.clone / "processes").unlink()
    removed = remove_run(FakeHypervisor(), folder).removed
    assert any(name.endswith(f" process {program.pid}") for name in removed), removed
    assert not is_running(program.pid)
    assert link.network.bridge


def test_a_host_without_python_is_said_and_costs_nothing(folder: RunFolder) -> None:
    egress.listen(Away("sbtest-nowhere", program="/nonexistent/ip"), "sb000000", folder)
    assert found(folder).missing.startswith("/nonexistent/ip is not installed")
    assert folder.processes() == ()


def test_a_bridge_that_is_not_there_is_said(folder: RunFolder) -> None:
    egress.listen(LocalHost(), "sbtest-no", folder)
    assert holds_soon(lambda: "No such device" in notes(folder), 20)
    assert found(folder).missing == "cannot listen at the bridge: [Errno 19] No such device"


def test_one_that_dies_is_said_and_what_it_heard_is_kept(link: Link, folder: RunFolder) -> None:
    assert tries(link, "SOCK_STREAM", FAR, 443) == "ConnectionRefusedError"
    waited(folder, f"tcp {FAR} 443")
    (program,) = folder.processes()
    os.kill(program.pid, signal.SIGKILL)
    assert holds_soon(lambda: not is_running(program.pid), 20)
    assert "only for a while" in found(folder).missing
    assert len(found(folder).destinations) == 1


# -- the notes ----------------------------------------------------------------------------------


def write(folder: RunFolder, text: str, control: str = "") -> None:
    (folder.clone / "tried").write_text(text)
    (folder.clone / "tried-control").write_text(control)


def test_without_a_listener_there_is_no_ledger(folder: RunFolder) -> None:
    assert egress.read(folder, None) is None
    assert egress.position(folder) == 0


def test_what_the_control_tries_as_well_is_not_new(folder: RunFolder) -> None:
    before, after = "listening\ntcp 192.0.2.1 1\n", "tcp 192.0.2.2 2\ntcp 192.0.2.3 3\n"
    write(folder, before + after, "listening\ntcp 192.0.2.2 2\ntcp 192.0.2.2 2\n")
    read = found(folder, len(before))
    assert [one.address for one in read.new] == ["192.0.2.3"]
    assert [(one.address, one.control) for one in read.destinations] == [
        ("192.0.2.3", 0),
        ("192.0.2.1", 0),
        ("192.0.2.2", 2),
    ]


def test_many_attempts_in_a_line_are_counted(folder: RunFolder) -> None:
    before = "listening\n" + "tcp 192.0.2.1 1\n" * 200 + "100 tcp 192.0.2.1 1\n"
    write(folder, before + "100 tcp 192.0.2.1 1\n1000 tcp 192.0.2.9 1\n")
    (one,) = found(folder, len(before)).destinations
    assert (one.before, one.after) == (300, 100)


@pytest.mark.parametrize(
    ("control", "known"),
    [
        ("listening\n", True),
        ("no such device\n", False),
        ("", False),
        ("listening\ntcp 192.0.2.1 1\nfull\n", False),
    ],
)
def test_what_the_control_tried_may_not_be_known(
    folder: RunFolder, control: str, known: bool
) -> None:
    write(folder, "listening\ntcp 192.0.2.1 1\n", control)
    assert found(folder).control_known is known
    record = passed()
    facts = record.facts.model_copy(update={"ledger": found(folder)})
    shown = view(record.model_copy(update={"facts": facts}), folder.artifacts)
    assert any("the control tried is not known" in line for line in shown.tried) is not known
    (folder.clone / "tried-control").unlink()
    assert found(folder).control_known, "there is no control"


def test_without_an_upgrade_nothing_is_new(folder: RunFolder) -> None:
    write(folder, "listening\ntcp 192.0.2.1 1\n")
    assert found(folder, None).new == ()
    assert found(folder, len("listening\n")).new != ()


def test_a_neighbour_to_whom_something_was_sent_is_told_once(folder: RunFolder) -> None:
    write(folder, "listening\nneighbour 192.0.2.1 0\ntcp 192.0.2.1 1\nneighbour 192.0.2.2 0\n")
    kinds = [(one.kind, one.address) for one in found(folder).destinations]
    assert kinds == [("tcp", "192.0.2.1"), ("neighbour", "192.0.2.2")]


def test_what_is_no_note_is_passed_over(folder: RunFolder) -> None:
    write(folder, "listening\ntcp 192.0.2.1\n\x1b[2J 1 2\ntcp a b 9\nudp 192.0.2.1 1\nfull\n")
    read = found(folder)
    assert [one.kind for one in read.destinations] == ["udp"]
    assert not read.whole


# -- in a rehearsal -----------------------------------------------------------------------------


def test_a_rehearsal_listens_and_leaves_nobody_behind(stage: Stage) -> None:
    record = stage.rehearse()
    assert record.facts.ledger is not None
    assert record.facts.ledger.destinations == ()
    assert stage.left() == []


def test_a_rehearsal_to_which_nobody_can_listen_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "sys", SimpleNamespace(executable="/nonexistent/python"))
    record = stage.rehearse()
    assert record.facts.trouble is not None
    assert "no SSH within" in record.facts.trouble.message, "it went as far as without"
    assert record.facts.ledger is not None
    assert "not installed" in record.facts.ledger.missing
