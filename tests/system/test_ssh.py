"""The SSH connection to the clone, against a real sshd on loopback."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.clone.ssh import HOST, GuestLogin, SshConnection, config_text, ssh_command
from sandbox.core.deadline import Deadline
from sandbox.core.errors import ConnectionLost, DeadlineExceeded, GuestUnreachable, RequestError
from tests.support.fakes.guest_world import login_of, port_of
from tests.support.machine.sshd import Sshd, running_sshd
from tests.support.waiting import holds_soon, soon

LOOPBACK = "127.0.0.1"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def registered() -> list[tuple[int, str]]:
    return []


@pytest.fixture
def connection(
    sshd: Sshd, tmp_path: Path, registered: list[tuple[int, str]]
) -> Iterator[SshConnection]:
    made = SshConnection(tmp_path, login_of(sshd), lambda pid, role: registered.append((pid, role)))
    yield made
    made.close()


def test_a_command_runs_over_the_registered_master(
    connection: SshConnection, registered: list[tuple[int, str]]
) -> None:
    assert not connection.alive()
    connection.open(LOOPBACK, soon())
    assert connection.alive()
    assert [role for _pid, role in registered] == ["ssh"]
    done = connection.execute(["printf", "%s|", "a b", "$HOME", "'q'", ""], soon())
    assert (done.status, done.stdout) == (0, "a b|$HOME|'q'||")
    connection.close()
    assert not connection.alive()
    assert not Path(f"/proc/{registered[0][0]}").exists()


def test_a_commands_status_and_input_go_through(connection: SshConnection) -> None:
    connection.open(LOOPBACK, soon())
    assert connection.execute(["sh", "-c", "exit 3"], soon()).status == 3
    assert connection.execute(["cat"], soon(), input=b"\0\xff\n").stdout == "\0\ufffd\n"
    assert connection.execute(["cat"], soon()).stdout == "", "standard input is not ours"


def test_255_is_a_lost_connection(connection: SshConnection) -> None:
    connection.open(LOOPBACK, soon())
    with pytest.raises(ConnectionLost):
        connection.execute(["sh", "-c", "exit 255"], soon())


def test_a_command_ends_with_its_deadline(connection: SshConnection) -> None:
    connection.open(LOOPBACK, soon())
    with pytest.raises(DeadlineExceeded):
        connection.execute(["sleep", "60"], Deadline(0.5, "test"))
    assert connection.execute(["true"], soon()).ok, "the connection outlives one late command"


def test_a_stream_hands_on_bytes_as_they_come(connection: SshConnection) -> None:
    connection.open(LOOPBACK, soon())
    seen: list[tuple[float, bytes]] = []
    started = time.monotonic()
    status = connection.stream(
        ["sh"],
        soon(),
        lambda data: seen.append((time.monotonic() - started, data)),
        input=b"printf one; sleep 1; printf two; exit 7",
    )
    assert status == 7
    assert b"".join(data for _when, data in seen) == b"onetwo"
    assert seen[-1][0] - seen[0][0] > 0.8


@pytest.mark.parametrize("script", [b"sleep 60", b"while :; do echo chatter; done"])
def test_a_stream_ends_with_its_deadline_silent_or_not(
    connection: SshConnection, script: bytes
) -> None:
    connection.open(LOOPBACK, soon())
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        connection.stream(["sh"], Deadline(1, "test"), lambda _data: None, input=script)
    assert time.monotonic() - started < 30


def test_a_stream_says_when_the_guest_is_lost(connection: SshConnection, sshd: Sshd) -> None:
    connection.open(LOOPBACK, soon())
    cut = threading.Timer(0.7, sshd.drop_sessions)
    cut.start()
    assert connection.stream(["sleep", "30"], soon(), lambda _d: None, input=b"") == 255
    cut.join()
    assert holds_soon(lambda: not connection.alive())


def test_a_refused_key_is_refused_for_good(sshd: Sshd, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger], check=True)
    connection = SshConnection(tmp_path, login_of(sshd, stranger), lambda *_: None)
    with pytest.raises(GuestUnreachable, match="Permission denied") as caught:
        connection.open(LOOPBACK, soon())
    assert caught.value.refused
    assert str(stranger) in caught.value.message
    assert "Permanently added" in (tmp_path / "ssh.log").read_text()
    assert "Permanently added" not in caught.value.message, "it explains nothing"
    assert "inject" in caught.value.hint


def test_a_key_that_cannot_be_read_is_refused_for_good(sshd: Sshd, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("no key\n")
    broken.chmod(0o600)
    connection = SshConnection(tmp_path, login_of(sshd, broken), lambda *_: None)
    with pytest.raises(GuestUnreachable) as caught:
        connection.open(LOOPBACK, soon())
    assert caught.value.refused


def test_a_port_that_nobody_listens_on_is_worth_another_try(sshd: Sshd, tmp_path: Path) -> None:
    nobody = GuestLogin("root", sshd.folder / "user_key", 1)
    with pytest.raises(ConnectionLost, match="Connection refused"):
        SshConnection(tmp_path, nobody, lambda *_: None).open(LOOPBACK, soon())


def test_a_server_that_never_answers_costs_the_deadline(sshd: Sshd, tmp_path: Path) -> None:
    import socket

    with socket.create_server((LOOPBACK, 0)) as silent:
        login = GuestLogin("root", sshd.folder / "user_key", silent.getsockname()[1])
        connection = SshConnection(tmp_path, login, lambda *_: None)
        with pytest.raises(DeadlineExceeded):
            connection.open(LOOPBACK, Deadline(0.5, "test"))
        connection.close()


def test_a_changed_host_key_is_not_taken_for_a_refused_login(sshd: Sshd, tmp_path: Path) -> None:
    """Another machine at the same address is not our guest; nobody is told that a key is wrong."""
    other = (sshd.folder / "user_key.pub").read_text().split()[:2]
    (tmp_path / "known_hosts").write_text(f"[{LOOPBACK}]:{port_of(sshd)} {' '.join(other)}\n")
    connection = SshConnection(tmp_path, login_of(sshd), lambda *_: None)
    with pytest.raises(ConnectionLost):
        connection.open(LOOPBACK, soon())


def test_opening_again_replaces_a_connection_that_hangs(
    connection: SshConnection, registered: list[tuple[int, str]]
) -> None:
    connection.open(LOOPBACK, soon())
    first = registered[0][0]
    subprocess.run(["kill", "-STOP", str(first)], check=True)
    connection.open(LOOPBACK, soon())
    assert not Path(f"/proc/{first}").exists()
    assert connection.execute(["true"], soon()).ok


# -- the forwarded proxy ----------------------------------------------------------------------


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Path]:
    """A unix socket that answers every connection with one word."""
    import socketserver

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"proxy")

    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "p"), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield tmp_path / "p"
        server.shutdown()
        thread.join()


ASK = ["bash", "-c", 'exec 3<>"/dev/tcp/127.0.0.1/$0"; cat <&3']


def test_the_proxy_is_reached_through_the_guests_loopback(
    connection: SshConnection, echo: Path
) -> None:
    connection.open(LOOPBACK, soon())
    port = connection.forward(echo, soon())
    assert connection.forwarded_port == port > 0
    assert connection.execute([*ASK, str(port)], soon()).stdout == "proxy"


def test_the_port_is_the_same_after_a_reconnect(
    connection: SshConnection, echo: Path, registered: list[tuple[int, str]]
) -> None:
    connection.open(LOOPBACK, soon())
    port = connection.forward(echo, soon())
    subprocess.run(["kill", "-KILL", str(registered[0][0])], check=True)
    assert holds_soon(lambda: not connection.alive())
    give_up = soon()
    while not connection.alive():  # as Guest.enter does: the old session may still have the port
        try:
            connection.open(LOOPBACK, give_up)
        except ConnectionLost:
            give_up.sleep(0.2)
    assert connection.forwarded_port == port
    assert connection.execute([*ASK, str(port)], soon()).stdout == "proxy"


def test_a_port_that_is_still_held_is_worth_another_try(
    connection: SshConnection, echo: Path
) -> None:
    """The old session of a broken connection holds it for a while: no fault of the guest's."""
    import socket

    connection.open(LOOPBACK, soon())
    port = connection.forward(echo, soon())
    connection.close()
    with socket.socket() as holder:
        deadline = soon()
        while True:
            try:
                holder.bind((LOOPBACK, port))
                break
            except OSError:
                deadline.sleep(0.05)
        holder.listen()
        with pytest.raises(ConnectionLost, match="not free"):
            connection.open(LOOPBACK, soon())
    connection.open(LOOPBACK, soon())
    assert connection.execute([*ASK, str(port)], soon()).stdout == "proxy"


@pytest.mark.parametrize("setting", ["AllowTcpForwarding no", "AllowTcpForwarding local"])
def test_a_guest_that_lets_nothing_be_forwarded_is_told_what_to_set(
    tmp_path: Path, echo: Path, setting: str
) -> None:
    folder = tmp_path / "sshd"
    folder.mkdir()
    with running_sshd(folder, f"{setting}\n") as sshd:
        connection = SshConnection(tmp_path, login_of(sshd), lambda *_: None)
        connection.open(LOOPBACK, soon())
        with pytest.raises(RequestError, match="refuses to forward") as caught:
            connection.forward(echo, soon())
        assert "AllowTcpForwarding" in caught.value.hint
        connection.close()


# -- configuration ----------------------------------------------------------------------------


def test_nothing_of_the_operators_own_configuration_counts(tmp_path: Path) -> None:
    text = config_text(tmp_path, GuestLogin("root", tmp_path / "key"), "fe80::1%sb123456")
    assert "HostName fe80::1%%sb123456" in text
    (tmp_path / "c").write_text(text)
    said = subprocess.run(
        ["ssh", "-G", "-F", tmp_path / "c", HOST], capture_output=True, text=True, check=True
    ).stdout
    for line in (
        "hostname fe80::1%sb123456",
        "user root",
        "port 22",
        "batchmode yes",
        "identitiesonly yes",
        "identityagent none",
        f"identityfile {tmp_path}/key",
        "globalknownhostsfile /dev/null",
        "stricthostkeychecking accept-new",
        "forwardagent no",
        "permitlocalcommand no",
    ):
        assert line in said.splitlines()


@pytest.mark.parametrize("address", ["fe80::1%sb123456", "198.18.0.10"])
def test_the_way_through_a_host_is_taken_as_it_stands(tmp_path: Path, address: str) -> None:
    """Up to the end of the line, quotes and all; %h is the clone's address with its bridge."""
    way = "'/run/a b/ssh-0' -W '[%h]:%p' 'xen1'"
    (tmp_path / "c").write_text(
        config_text(tmp_path, GuestLogin("root", tmp_path / "k"), address, way)
    )
    argv = ["ssh", "-G", "-F", tmp_path / "c", HOST]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert f"proxycommand {way}" in said
    assert f"hostname {address}" in said
    direct = config_text(tmp_path, GuestLogin("root", tmp_path / "k"), address)
    assert "ProxyCommand" not in direct


@pytest.mark.parametrize("name", ["a key", "100%h", "it's", 'say "key"', "back\\slash", "#1", "ä"])
def test_a_key_may_have_any_name(sshd: Sshd, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(sshd.folder / "user_key", folder / name)
    connection = SshConnection(folder, login_of(sshd, folder / name), lambda *_: None)
    connection.open(LOOPBACK, soon())
    assert connection.execute(["echo", "in"], soon()).stdout == "in\n"
    connection.close()


def test_the_command_for_people_can_be_pasted_into_a_shell(sshd: Sshd, tmp_path: Path) -> None:
    folder = tmp_path / "a clone"
    folder.mkdir()
    connection = SshConnection(folder, login_of(sshd), lambda *_: None)
    connection.open(LOOPBACK, soon())
    typed = subprocess.run(
        ["sh", "-c", f"{ssh_command(folder)} echo in"], capture_output=True, text=True, check=False
    )
    connection.close()
    assert typed.stdout == "in\n", typed.stderr


def test_a_kill_of_the_client_is_a_lost_connection(
    connection: SshConnection, registered: list[tuple[int, str]]
) -> None:
    connection.open(LOOPBACK, soon())
    killer = threading.Timer(0.5, lambda: kill(registered[0][0]))
    killer.start()
    with pytest.raises(ConnectionLost):
        connection.execute(["sleep", "30"], soon())
    killer.join()


def kill(pid: int) -> None:
    import os

    os.kill(pid, signal.SIGKILL)
