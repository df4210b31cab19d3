"""A real sshd on loopback that stands in for the guest's, with one multiplexed connection to it."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.process import run

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


class Sshd:
    """The server, its client configuration (``Host clone``) and the connection's master."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ssh_config = folder / "ssh_config"
        self.server: subprocess.Popen[bytes] | None = None
        self.master: subprocess.Popen[bytes] | None = None

    def drop_sessions(self) -> None:
        """End the server's side of every connection, as a guest that goes away does."""
        assert self.server is not None
        for pid in children(self.server.pid):
            subprocess.run(["kill", "-9", str(pid)], check=False)


def children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in listed]
    return []


def kill_tree(pid: int) -> None:
    """End a process that we started and what it started."""
    for child in children(pid):
        kill_tree(child)
    subprocess.run(["kill", "-9", str(pid)], check=False, stderr=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def write_configs(sshd: Sshd, port: int, extra: str, search: str) -> None:
    folder = sshd.folder
    for key in ("host_key", "user_key"):
        run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key],
            Deadline(20, "ssh-keygen"),
        )
    (folder / "authorized_keys").write_bytes((folder / "user_key.pub").read_bytes())
    (folder / "sshd_config").write_text(
        extra  # the first value of an option counts
        + f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\nStrictModes no\n"
        # Not this machine's own ~/.bashrc: whatever it does, a guest would not.
        f"MaxSessions 20\nUseDNS no\nSetEnv HOME={folder} PATH={search}\n"
    )
    sshd.ssh_config.write_text(
        f"Host clone\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n  BatchMode yes\n"
        "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
        f"  ControlPath {folder}/c\n"
    )


@contextmanager
def running_sshd(
    folder: Path, extra: str = "", search: str = "/usr/sbin:/usr/bin:/sbin:/bin"
) -> Iterator[Sshd]:
    """Start both ends, wait until the connection is there, and end both."""
    assert SSHD, "these tests need sshd: apt install openssh-server"
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks itself in before the login
    sshd = Sshd(folder)
    with ExitStack() as stack:
        write_configs(sshd, free_port(), extra, search)
        log = stack.enter_context((folder / "sshd.log").open("wb"))
        server = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        stack.callback(end, server)
        sshd.server = server
        deadline = Deadline(20, "connection to the test's sshd")
        while run(["ssh", "-F", sshd.ssh_config, "clone", "true"], deadline, check=False).status:
            assert server.poll() is None, (folder / "sshd.log").read_text()
            deadline.sleep(0.05)
        sshd.master = subprocess.Popen(
            ["ssh", "-F", str(sshd.ssh_config), "-M", "-N", "clone"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        stack.callback(end, sshd.master)
        while not (folder / "c").exists():
            deadline.sleep(0.02)
        yield sshd


def end(process: subprocess.Popen[bytes]) -> None:
    kill_tree(process.pid)
    process.wait()
