"""Stand-ins on a real bridge with its gate closed, asked by a guest's own kernel."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.clone.reaper import remove_run
from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.core.records import Dependency
from sandbox.core.settings import Settings
from sandbox.core.store import RunFolder, Store
from sandbox.hosts.drivers import Mark
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.transport import Host, LocalHost
from sandbox.network import egress, isolation, stand_ins
from sandbox.rehearsal.plan import make_plan
from tests.support.fakes.host_way import Way, way_to
from tests.support.fakes.stage import Bridged, Stage, commands_with
from tests.support.machine.sshd import Sshd
from tests.support.waiting import holds_soon
from tests.system.test_tried import TRY, waited

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


CROWD = """
import socket, sys
crowd = []
for number in range(int(sys.argv[2])):
    crowd.append(socket.create_connection((sys.argv[1], 25), timeout=20))
for one in crowd[:200]:
    assert one.recv(3) == b"220"
print("served")
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


@pytest.fixture(scope="module", params=["local", "remote"])
def server_host(request: pytest.FixtureRequest, host_sshd: Sshd) -> Iterator[Host]:
    with way_to(host_sshd) as way:
        yield LocalHost() if request.param == "local" else way.host()


@pytest.fixture(scope="module")
def guest(server_host: Host) -> Iterator[Guest]:
    with tempfile.TemporaryDirectory(prefix="sbtest-") as state:
        folder = Store(Settings(state=Path(state))).create()
        hypervisor, namespace = Bridged(), f"sbtest-g-{secrets.token_hex(3)}"
        soon = Deadline(30, "test")
        net = isolation.create(hypervisor, folder.id, Mark(folder.id, "o", 1), 22, soon)
        subprocess.run(["ip", "netns", "add", namespace], check=True)
        inside, port = ["ip", "-n", namespace], f"{net.bridge}-0"
        peer = ("peer", "name", "eth0", "netns", namespace)
        try:
            for words in (
                ["ip", "link", "add", port, "master", net.bridge, "up", "type", "veth", *peer],
                [*inside, "link", "set", "eth0", "up"],
                [*inside, "address", "add", "10.1.0.5/24", "dev", "eth0"],
                [*inside, "route", "add", "default", "via", "10.1.0.1"],
            ):
                subprocess.run(words, check=True)
            egress.listen(server_host, net.bridge, folder, dependencies=NEEDED)
            stand_ins.start_servers(server_host, NEEDED, net.bridge, folder, soon)
            waited(folder, "listening")
            yield Guest(namespace, folder, hypervisor, net.bridge)
        finally:
            remove_run(hypervisor, folder)
            subprocess.run(["ip", "netns", "del", namespace], check=True)
        assert commands_with(str(folder.clone)) == []
        assert nothing_is_left(net.bridge)


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


def test_those_who_are_too_many_wait(guest: Guest) -> None:
    assert guest.python(CROWD, "198.51.100.3", 300) == "served"
    assert guest.python(MAIL, "198.51.100.3") == "{}"


def test_they_are_nobody_and_have_no_way_to_the_host(guest: Guest) -> None:
    keeper, server = processes(guest.bridge)
    assert Path(f"/proc/{keeper}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()
    status = Path(f"/proc/{server}/status").read_text()
    assert "\nUid:\t65534\t65534\t65534\t65534\n" in status
    assert "\nCapEff:\t0000000000000000\n" in status
    enter = ["nsenter", "-t", str(server), "-n"]
    links = json.loads(subprocess.check_output([*enter, "ip", "-json", "link"]))
    assert {link["ifname"] for link in links} == {"lo", "card"}
    for name in ("ipv4/ip_forward", "ipv6/conf/card/forwarding"):
        read = [*enter, "sysctl", "-n", f"net.{name.replace('/', '.')}"]
        assert subprocess.run(read, capture_output=True, text=True, check=True).stdout == "0\n"
    files = [os.readlink(path) for path in Path(f"/proc/{server}/fd").iterdir()]
    sockets = {file for file in files if file.startswith("socket:")}
    of_the_host = [os.readlink(path) for path in Path(f"/proc/{keeper}/fd").iterdir()]
    assert not sockets & {*of_the_host}, "none of the host's network is open to it"


# -- their end ----------------------------------------------------------------------------------


@pytest.fixture
def bridge() -> Iterator[str]:
    name = f"sbt{secrets.token_hex(3)}"
    for words in (("add", name, "type", "bridge"), ("set", name, "up")):
        subprocess.run(["ip", "link", *words], check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=False, stderr=subprocess.DEVNULL)


@pytest.fixture
def folder() -> Iterator[RunFolder]:
    with tempfile.TemporaryDirectory(prefix="sbtest-") as state:
        yield Store(Settings(state=Path(state))).create()


def processes(bridge: str) -> list[int]:
    """The keeper, and the one who answers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if f"{stand_ins.SERVER}\0{bridge}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return sorted(found)


def nothing_is_left(bridge: str) -> bool:
    """The kernel clears a network of nobody's in its own time."""
    port = Path(f"/sys/class/net/{bridge}-s")
    return holds_soon(lambda: processes(bridge) == [] and not port.exists(), 20)


def test_they_end_with_the_bridge_and_with_nothing_else(
    machine: Host, way: Way, bridge: str, folder: RunFolder
) -> None:
    """On every kind of host: through a real sshd as well, with nothing of ours at its end."""
    stand_ins.start_servers(machine, NEEDED, bridge, folder, Deadline(60, "test"))
    assert len(processes(bridge)) == 2
    assert Path(f"/sys/class/net/{bridge}-s/master").resolve().name == bridge
    said = f"{stand_ins.SERVER} {bridge}"  # rehearsals elsewhere on this machine have their own
    ours = [line for line in commands_with(said) if line.startswith(("ssh", "sshd"))]
    assert ours == [], "no session of an ssh connection is held"
    way.sshd.drop_sessions()
    assert len(processes(bridge)) == 2
    assert folder.processes() == (), "on a host behind ssh, a pid of ours would be another's"
    subprocess.run(["ip", "link", "del", bridge], check=True)
    assert nothing_is_left(bridge)


@pytest.mark.parametrize("which", [0, 1])
def test_neither_of_the_two_is_there_without_the_other(
    bridge: str, folder: RunFolder, which: int
) -> None:
    stand_ins.start_servers(LocalHost(), NEEDED, bridge, folder, Deadline(60, "test"))
    os.kill(processes(bridge)[which], signal.SIGKILL)
    assert nothing_is_left(bridge)


def test_a_reaper_finds_and_ends_them(bridge: str, folder: RunFolder) -> None:
    """Also where the bridge is not known to it."""
    stand_ins.start_servers(LocalHost(), NEEDED, bridge, folder, Deadline(60, "test"))
    keeper, _server = processes(bridge)
    removed = remove_run(FakeHypervisor(), folder).removed
    assert any(name.endswith(f" process {keeper}") for name in removed), removed
    assert nothing_is_left(bridge)


def test_a_host_without_such_a_bridge_is_our_error(machine: Host, folder: RunFolder) -> None:
    with pytest.raises(HostError, match=r"do not start: sbtest-no: .*No such device"):
        stand_ins.start_servers(machine, NEEDED, "sbtest-no", folder, Deadline(60, "test"))
    assert nothing_is_left("sbtest-no")


def test_a_host_without_python_is_our_error(
    machine: Host, bridge: str, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_ins, "by_text", lambda *_: ["no-such-python"])
    with pytest.raises(HostError, match="no-such-python"):
        stand_ins.start_servers(machine, NEEDED, bridge, folder, Deadline(60, "test"))


def test_what_cannot_be_answered_for_is_our_error(bridge: str, folder: RunFolder) -> None:
    """The one who answers says why, and nobody stays."""
    twice = (NEEDED[0], NEEDED[0])
    with pytest.raises(HostError, match=f"{bridge}: .*already in use"):
        stand_ins.start_servers(LocalHost(), twice, bridge, folder, Deadline(60, "test"))
    assert nothing_is_left(bridge)


# -- in a rehearsal -----------------------------------------------------------------------------

STATED = "source: {guest: web01}\ndependencies: [tcp: 'db.example:5432']"


def test_a_rehearsal_says_what_it_answers_for_and_leaves_nothing(stage: Stage) -> None:
    record = stage.rehearse(STATED)
    assert record.source is not None
    assert "answered by a stand-in: tcp db.example:5432" in record.source.changed
    assert stage.left() == []


def test_a_xen_host_has_them_as_well(stage: Stage) -> None:
    stage.hypervisor.kind = "xen"
    stage.hypervisor.domains["web01"].state = "running"
    scenario, folder = stage.scenario(STATED), stage.new_folder()
    made = make_plan(scenario, stage.hypervisor, folder, False, Deadline(20, "test"))
    assert made.order.dependencies == (Dependency(kind="tcp", host="db.example", port=5432),)
