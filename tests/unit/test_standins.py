"""Stand-ins on a real bridge with its gate closed, asked by a guest's own kernel."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sshd import wait_for
from stage import Bridged, Stage, commands_with
from test_process import is_running
from test_tried import TRY, waited

from sandbox import ledger, network, standins
from sandbox.deadline import Deadline
from sandbox.errors import HostError
from sandbox.host import LocalHost
from sandbox.hypervisors import Mark
from sandbox.hypervisors.fake import FakeHypervisor
from sandbox.reaper import remove_run
from sandbox.records import Dependency, Verdict
from sandbox.settings import Settings
from sandbox.store import RunFolder, Store

pytest_plugins = ["stage_fixtures"]

NEEDED = (
    Dependency(kind="http", host="api.example", port=8080),
    Dependency(kind="http", host="10.1.2.3", port=80),
    Dependency(kind="tcp", host="10.1.2.3", port=5432),
    Dependency(kind="smtp", host="mail.example", port=25),
)
WEB = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], data=b"x" * int(sys.argv[2]) or None)
with urllib.request.urlopen(request, timeout=20) as answer:
    print(answer.status, answer.read())
"""
MAIL = """
import smtplib, sys
with smtplib.SMTP(sys.argv[1], timeout=20) as mail:
    print(mail.sendmail("a@example.org", ["b@example.org"], "Subject: hello\\r\\n\\r\\n.\\r\\n"))
"""
HOLD = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as held:
    held.sendall(b"hello")
    held.settimeout(0.5)
    try:
        print("said", held.recv(100))
    except TimeoutError:
        print("held")
"""


@dataclass
class Guest:
    namespace: str
    folder: RunFolder
    hypervisor: Bridged
    bridge: str

    def python(self, program: str, *words: object) -> str:
        argv = ["ip", "netns", "exec", self.namespace, sys.executable, "-c", program]
        done = subprocess.run(
            [*argv, *map(str, words)], capture_output=True, text=True, check=False
        )
        return (done.stdout or done.stderr).strip()

    def resolve(self, name: str, kind: int = 1) -> str:
        labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
        query = bytes.fromhex("126701000001000000000000") + labels + bytes([0, 0, kind, 0, 1])
        return self.python(TRY, "SOCK_DGRAM", "192.0.2.53", 53, query.hex())

    def tries(self, address: str, port: int) -> str:
        return self.python(TRY, "SOCK_STREAM", address, port, "00")


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with tempfile.TemporaryDirectory(prefix="sbtest-") as state:
        folder = Store(Settings(state=Path(state))).create()
        hypervisor, namespace = Bridged(), f"sbtest-g-{secrets.token_hex(3)}"
        soon = Deadline(30, "test")
        net = network.create(hypervisor, folder.id, Mark(folder.id, "o", 1), 22, soon)
        subprocess.run(["ip", "netns", "add", namespace], check=True)
        inside, port = ["ip", "-n", namespace], f"{net.bridge}-0"
        peer = ("peer", "name", "eth0", "netns", namespace)
        try:
            for words in (
                ["ip", "link", "set", net.bridge, "up"],
                ["ip", "link", "add", port, "master", net.bridge, "up", "type", "veth", *peer],
                [*inside, "link", "set", "eth0", "up"],
                [*inside, "address", "add", "10.1.0.5/24", "dev", "eth0"],
                [*inside, "route", "add", "default", "via", "10.1.0.1"],
            ):
                subprocess.run(words, check=True)
            ledger.listen(LocalHost(), net.bridge, folder, dependencies=NEEDED)
            standins.start_servers(NEEDED, net.bridge, folder, soon)
            waited(folder, "listening")
            yield Guest(namespace, folder, hypervisor, net.bridge)
        finally:
            remove_run(hypervisor, folder)
            subprocess.run(["ip", "netns", "del", namespace], check=True)
        assert commands_with(str(folder.clone)) == []
        assert not Path(f"/sys/class/net/{net.bridge}-s").exists()


def test_names_that_were_stated_are_resolved_and_no_others(guest: Guest) -> None:
    assert guest.resolve("api.example").endswith("c00c000100010000003c0004c6336401")
    assert guest.resolve("mail.example").endswith("c6336403")
    assert guest.resolve("API.example", kind=28)[4:16] == "818000010000", "it has no IPv6 address"
    assert guest.resolve("other.example")[4:16] == "818200010000", "a server's failure"


def test_http_is_answered_with_an_empty_200(guest: Guest) -> None:
    assert guest.python(WEB, "http://198.51.100.1:8080/health?x=1", 0) == "200 b''"
    assert guest.python(WEB, "http://10.1.2.3/", 3_000_000) == "200 b''"


def test_mail_is_taken(guest: Guest) -> None:
    assert guest.python(MAIL, "198.51.100.3") == "{}"


def test_tcp_is_accepted_and_held(guest: Guest) -> None:
    assert guest.python(HOLD, "10.1.2.3", 5432) == "held"


def test_whatever_was_not_stated_is_still_refused(guest: Guest) -> None:
    assert guest.tries("10.1.2.3", 5433) == "ConnectionRefusedError"
    assert guest.tries("10.1.2.4", 5432) == "ConnectionRefusedError"
    assert guest.tries("198.51.100.2", 8080) == "ConnectionRefusedError"


def test_a_stand_in_is_told_by_its_name(guest: Guest) -> None:
    assert guest.python(HOLD, "198.51.100.1", 8080) == "held"
    waited(guest.folder, "tcp api.example 8080")
    assert "198.51.100.1" not in (guest.folder.clone / "tried").read_text()


def test_they_are_nobody_and_have_no_way_to_the_host(guest: Guest) -> None:
    (server,) = [one for one in guest.folder.processes() if one.role == "stand-ins"]
    status = Path(f"/proc/{server.pid}/status").read_text()
    assert "\nUid:\t65534\t65534\t65534\t65534\n" in status
    assert "\nCapEff:\t0000000000000000\n" in status
    enter = ["nsenter", "-t", str(server.pid), "-n"]
    links = json.loads(subprocess.check_output([*enter, "ip", "-json", "link"]))
    assert {link["ifname"] for link in links} == {"lo", "card"}
    for name in ("ipv4/ip_forward", "ipv6/conf/card/forwarding"):
        read = [*enter, "sysctl", "-n", f"net.{name.replace('/', '.')}"]
        assert subprocess.run(read, capture_output=True, text=True, check=True).stdout == "0\n"


def test_one_that_nobody_wrote_down_is_found_and_ended() -> None:
    """As after a kill between its start and its note."""
    with tempfile.TemporaryDirectory(prefix="sbtest-") as state:
        folder = Store(Settings(state=Path(state))).create()
        with pytest.raises(HostError):  # there is no such bridge
            standins.start_servers(NEEDED[:1], "sbtest-no", folder, Deadline(20, "test"))
        (server,) = folder.processes()
        assert is_running(server.pid)
        (folder.clone / "processes").unlink()
        removed = remove_run(FakeHypervisor(), folder).removed
        assert any(name.endswith(f" process {server.pid}") for name in removed), removed
        assert wait_for(lambda: not is_running(server.pid), 20)
        # The kernel clears a network of nobody's in its own time.
        assert wait_for(lambda: not Path("/sys/class/net/sbtest-no-s").exists(), 20)


def test_those_that_do_not_start_are_our_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standins, "SERVER", "sandbox.no_such_module")
    with tempfile.TemporaryDirectory(prefix="sbtest-") as state:
        folder = Store(Settings(state=Path(state))).create()
        with pytest.raises(HostError, match="no_such_module"):
            standins.start_servers(NEEDED, "sbtest-no", folder, Deadline(20, "test"))


# -- in a rehearsal -----------------------------------------------------------------------------

STATED = "source: {guest: web01}\ndependencies: [tcp: 'db.example:5432']"


def test_a_rehearsal_says_what_it_answers_for_and_leaves_nothing(stage: Stage) -> None:
    record = stage.rehearse(STATED)
    assert record.source is not None
    assert "answered by a stand-in: tcp db.example:5432" in record.source.changed
    assert stage.left() == []


def test_on_xen_it_is_rejected(stage: Stage) -> None:
    stage.hypervisor.kind = "xen"
    record = stage.rehearse(STATED)
    assert record.decision is not None
    assert record.decision.verdict is Verdict.REJECTED
    assert "Xen" in record.decision.reason
