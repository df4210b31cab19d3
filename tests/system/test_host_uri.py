"""What a host's URI means: to ssh, to libvirt, to a clone that only the host reaches."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from sandbox.clone.ssh import GuestLogin, SshConnection
from sandbox.core.errors import HostError, RequestError
from sandbox.hosts import transport as host_module
from sandbox.hosts.drivers.libvirt_base import LibvirtBase
from sandbox.hosts.transport import Host, LocalHost, RemoteHost, host_of
from tests.support.fakes.guest_world import port_of
from tests.support.fakes.host_way import LOOPBACK, Way
from tests.support.waiting import soon

# -- the URI and the program that libvirt is given --------------------------------------------


def test_libvirt_is_given_a_program_that_does_all(way: Way) -> None:
    host = way.host()
    parts = urlsplit(host.uri)
    options = parse_qs(parts.query)
    assert (parts.scheme, parts.path) == ("xen+ssh", "/system")
    assert (parts.username, parts.hostname, parts.port) == ("root", LOOPBACK, port_of(way.sshd))
    assert set(options) == {"command", "no_verify"}, "its own key and configuration would be used"
    program = Path(options["command"][0])
    assert program.parent == way.sockets
    assert stat.S_IMODE(program.stat().st_mode) == 0o700
    argv = [program, "-T", "-e", "none", "--", LOOPBACK, "sh -c 'echo in'"]  # as libvirt does
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout == "in\n", done.stderr


def test_libvirt_itself_gets_through(way: Way) -> None:
    """To the test driver of this machine's libvirtd."""
    connected = LibvirtBase.connect(way.uri("test", "default"), soon())
    try:
        assert connected.guests() == ("test",)
        assert isinstance(connected.host, RemoteHost)
        assert connected.lookup("test").running
        way.sshd.drop_sessions()
        assert connected.guests() == ("test",), "a connection that broke is opened again"
    finally:
        connected.close()
    with pytest.raises(HostError, match="cannot connect to libvirt") as caught:
        LibvirtBase.connect(way.uri("nonsense"), soon())
    assert caught.value.hint


def test_the_program_is_kept_and_renewed_when_it_was_changed(way: Way) -> None:
    program = Path(parse_qs(urlsplit(way.host().uri).query)["command"][0])
    text, inode = program.read_text(), program.stat().st_ino
    way.host()
    assert program.stat().st_ino == inode, "somebody may be running it"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert way.host().run(["true"], soon()).ok
    assert program.read_text() == text
    assert [p for p in way.sockets.iterdir() if not p.is_socket()] == [program]


@pytest.mark.parametrize("name", ["a key", "100%h", "it's", 'say "key"', "ä;id", "$(id)"])
def test_a_key_may_have_any_name(way: Way, tmp_path: Path, name: str) -> None:
    key = tmp_path / name
    key.write_bytes((way.sshd.folder / "user_key").read_bytes())
    key.chmod(0o600)
    assert way.host(keyfile=str(key)).run(["echo", "in"], soon()).stdout == "in\n"


def test_another_program_may_stand_for_ssh(way: Way, tmp_path: Path) -> None:
    program = tmp_path / "our ssh"
    program.write_text(f'#!/bin/sh\necho used >>"{tmp_path}/log"\nexec ssh "$@"\n')
    program.chmod(0o755)
    assert way.host(command=str(program)).run(["echo", "in"], soon()).stdout == "in\n"
    assert (tmp_path / "log").read_text() == "used\n"


def test_an_ipv6_address_and_a_user(way: Way) -> None:
    host = RemoteHost("xen+ssh://admin@[2001:db8::1]:2222/system")
    assert host.name == "2001:db8::1"
    shown = subprocess.run(
        [*host.command(["true"])[:1], "-G", host.name], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for line in ("hostname 2001:db8::1", "user admin", "port 2222", "batchmode yes"):
        assert line in shown


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("xen+ssh:///system", "names no host"),
        ("xen+ssh://-oProxyCommand=id/system", "names no host"),
        ("xen+tcp://xen1/system", "not supported"),
        ("xen+libssh2://xen1/system", "not supported"),
        # libvirt would go to that machine by TLS, and we would look for its disks on this one.
        ("xen://xen1/system", "not supported"),
        ("xen+unix://xen1/system", "not supported"),
    ],
)
def test_a_host_that_cannot_be_driven_is_a_wrong_request(way: Way, uri: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        host_of(uri)
    assert "xen+ssh://root@HOST/system" in caught.value.hint


@pytest.mark.parametrize(
    "uri", ["xen:///system", "qemu:///system", "xen+unix:///system", "test:///"]
)
def test_this_machine(uri: str) -> None:
    found = host_of(uri)
    assert isinstance(found, LocalHost)
    assert found.proxy_command == ""


def test_a_folder_for_connections_that_cannot_be_made_is_the_hosts_fault(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(host_module, "_SOCKETS", tmp_path / "file" / "ssh")
    with pytest.raises(HostError, match="cannot make") as caught:
        way.host()
    assert "root" in caught.value.hint


# -- is there SSH, seen from the host? --------------------------------------------------------


@contextmanager
def saying(*pieces: bytes) -> Iterator[int]:
    """A listener that says something to whoever connects; its port."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            stream, _ = listener.accept()
            with stream:
                for piece in pieces:
                    stream.sendall(piece)
                    over.wait(0.3)
                over.wait()

        over = threading.Event()
        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        over.set()


@pytest.mark.parametrize(
    ("said", "answers"),
    [(b"SSH-2.0-x\r\n", True), (b"SSH-", True), (b"HTTP/1.1 400\r\n", False), (b"SSH", False)],
)
def test_only_a_banner_is_an_answer(machine: Host, said: bytes, answers: bool) -> None:
    with saying(said) as port:
        assert machine.answers_ssh(LOOPBACK, port, 10 if answers else 1.5) is answers


def test_nobody_is_no_answer(machine: Host) -> None:
    for address in (LOOPBACK, "fe80::1%nosuchbridge", "no address"):
        assert not machine.answers_ssh(address, 1, 2)


def test_a_lost_host_is_no_answer(way: Way) -> None:
    lost = RemoteHost(way.uri().replace(f":{port_of(way.sshd)}/", ":1/"))
    assert not lost.answers_ssh(LOOPBACK, port_of(way.sshd), 5)


def test_a_banner_that_comes_in_pieces(machine: Host) -> None:
    with saying(b"SS", b"H-2.0") as port:
        assert machine.answers_ssh(LOOPBACK, port, 10)


def test_a_clone_is_entered_through_its_host(way: Way, tmp_path: Path) -> None:
    """As on a bridge of the host's, where nobody else gets to."""
    host = way.host()
    login = GuestLogin("root", way.sshd.folder / "user_key", port_of(way.sshd))
    connection = SshConnection(tmp_path, login, lambda *_: None, host.proxy_command)
    before = way.logins()
    connection.open(LOOPBACK, soon())
    assert connection.execute(["echo", "in"], soon()).stdout == "in\n"
    connection.close()
    assert way.logins() - before == 2, "one to the host, one to the clone"


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_the_way_to_a_clone_means_the_same_to_every_shell(
    way: Way, tmp_path: Path, shell: str
) -> None:
    """ssh has the operator's shell start it, to which [1]:22 may be a pattern for file names."""
    (tmp_path / f"1:{port_of(way.sshd)}").touch()
    login = GuestLogin("root", way.sshd.folder / "user_key", port_of(way.sshd))
    connection = SshConnection(tmp_path, login, lambda *_: None, way.host().proxy_command)
    connection.open(LOOPBACK, soon())
    argv = ["ssh", "-F", connection.config, "-o", "ControlPath=none", "clone", "echo in"]
    done = subprocess.run(
        argv, cwd=tmp_path, env=os.environ | {"SHELL": shell}, capture_output=True, text=True
    )
    connection.close()
    assert done.stdout == "in\n", done.stderr
