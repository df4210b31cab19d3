"""One multiplexed SSH connection to the clone: OpenSSH's own client, its master our child."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.errors import ConnectionLost, GuestUnreachable, HostError, RequestError
from sandbox.core.process import Completed, kill_group, run, start, tail
from sandbox.hosts.transport import quoted

HOST = "clone"  # the alias in the run's ssh_config; testinfra uses it too
_VERBATIM = "ProxyCommand"
LOST = 255  # what ssh itself exits with; the guest's own 255 is turned into 254
_REFUSED = ("Permission denied", "Too many authentication failures", "no matching host key type")
# A guest that is still booting lets only root in; that is no refusal.
_BOOTING = "System is booting up"
# Said of every clone: its host key is new to us by design, and explains nothing.
_NOISE = re.compile(r"^Warning: Permanently added .*$\n?", re.MULTILINE)


@dataclass(frozen=True)
class GuestLogin:
    """How the guest is entered: a user and a key that it accepts."""

    user: str
    key: Path
    port: int = 22


def config_text(folder: Path, login: GuestLogin, address: str, proxy_command: str = "") -> str:
    """The run's ssh_config; nothing of the operator's own configuration is read.

    ``proxy_command``: how to get to an address that only another host reaches.
    """
    options = {
        "HostName": address.replace("%", "%%"),  # ssh expands % itself
        "User": login.user,
        "Port": str(login.port),
        "IdentityFile": _path(login.key),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        # The first key seen is pinned for the run; the bridge has one port: no man in the middle.
        "StrictHostKeyChecking": "accept-new",
        "UserKnownHostsFile": _path(folder / "known_hosts"),
        "GlobalKnownHostsFile": "/dev/null",
        "ControlPath": _path(folder / "ssh.sock"),
        "ConnectTimeout": "15",
        # A guest under emulation may stall while it builds an initramfs; a minute is dead.
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "6",
        "LogLevel": "ERROR",
    }
    if proxy_command:
        options[_VERBATIM] = proxy_command  # up to the end of the line, never quoted
    lines = [f"Host {HOST}"]
    lines += [f"  {k} {v if k == _VERBATIM else quoted(v)}" for k, v in options.items()]
    return "\n".join(lines) + "\n"


def _path(path: Path) -> str:
    return str(path).replace("%", "%%")


class SshConnection:
    """The master connection and what runs over it."""

    def __init__(
        self,
        folder: Path,
        login: GuestLogin,
        register: Callable[[int, str], None],
        proxy_command: str = "",
    ) -> None:
        self._proxy_command = proxy_command
        self.folder = folder
        self.config = folder / "ssh_config"
        self.login = login
        self._register = register
        self._master: subprocess.Popen[bytes] | None = None
        self._forward: tuple[Path, int] | None = None

    def open(self, address: str, deadline: Deadline) -> None:
        """Connect; raises :class:`GuestUnreachable` when the guest refuses us for good and
        :class:`ConnectionLost` when it is worth trying again."""
        self.close()
        self.config.write_text(config_text(self.folder, self.login, address, self._proxy_command))
        control = self.folder / "ssh.sock"
        control.unlink(missing_ok=True)
        log = self.folder / "ssh.log"
        with log.open("wb") as output:
            self._master = start(self._argv("-M", "-N", "-o", "LogLevel=INFO", HOST), output)
        self._register(self._master.pid, "ssh")
        while not control.exists():
            if self._master.poll() is not None:
                self._raise_refusal(tail(_NOISE.sub("", log.read_text(errors="replace")), 4))
            deadline.sleep(0.02)
        if self._forward:
            self.forward(self._forward[0], deadline)

    def _raise_refusal(self, said: str) -> None:
        if any(word in said for word in _REFUSED) and _BOOTING not in said:
            raise GuestUnreachable(
                f"the guest refuses {self.login.user!r} with the key {self.login.key}: {said}",
                "give a user and key that the guest accepts (`login:`), or `inject: true`",
                refused=True,
            )
        raise ConnectionLost(f"ssh to the clone ended: {said}")

    def close(self) -> None:
        if self._master is not None:
            kill_group(self._master.pid)
            self._master.wait()
            self._master = None
        (self.folder / "ssh.sock").unlink(missing_ok=True)

    def alive(self) -> bool:
        return self._master is not None and self._master.poll() is None

    def forward(self, socket: Path, deadline: Deadline) -> int:
        """Forward a port on the guest's loopback to our unix socket; the same port again after
        a reconnect, since a running package manager was told it."""
        wanted = self._forward[1] if self._forward else 0
        done = run(
            self._argv("-O", "forward", "-R", f"127.0.0.1:{wanted}:{socket}", HOST),
            deadline,
            check=False,
        )
        answer = done.stdout.strip()
        if not done.ok and wanted:
            # It was let once; what is left of the broken connection still has the port.
            raise ConnectionLost(
                f"the package proxy's port is not free yet: {tail(done.stderr, 2)}"
            )
        if not done.ok or not (answer.isdigit() or wanted):
            raise RequestError(
                f"the guest's sshd refuses to forward the package proxy: {tail(done.stderr, 2)}",
                "its sshd_config needs AllowTcpForwarding yes (or remote)",
            )
        port = int(answer) if answer.isdigit() else wanted
        self._forward = (socket, port)
        return port

    @property
    def forwarded_port(self) -> int:
        return self._forward[1] if self._forward else 0

    def execute(
        self, command: Sequence[str], deadline: Deadline, *, input: bytes | None = None
    ) -> Completed:
        """Run a command (quoted for the guest's shell) and wait."""
        done = run(self._argv(HOST, shlex.join(command)), deadline, input=input or b"", check=False)
        if done.status == LOST:
            raise ConnectionLost(
                f"the connection to the clone broke: {tail(done.stderr, 2) or 'no reason given'}"
            )
        return done

    def stream(
        self,
        command: Sequence[str],
        deadline: Deadline,
        on_bytes: Callable[[bytes], None],
        *,
        input: bytes,
    ) -> int:
        """Run a command, handing on its standard output as it comes; ssh's exit status."""
        child = subprocess.Popen(
            self._argv(HOST, shlex.join(command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if child.stdin is None or child.stdout is None:
            raise HostError("no pipes to ssh")
        try:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(input)
                child.stdin.close()
            _pump(child.stdout.fileno(), deadline, on_bytes)
            return child.wait()
        finally:
            kill_group(child.pid)
            child.wait()
            child.stdout.close()

    def _argv(self, *rest: str) -> list[str]:
        return ["ssh", "-F", str(self.config), *rest]


def reading(
    address: str, user: str, port: int, key: Path | None, known_hosts: Path | None
) -> list[str]:
    """ssh to production itself, to run a script that comes on standard input.

    By the operator's own configuration, jump hosts and agent included; whatever that says, a host
    key must be known already, nothing is forwarded, and ssh never prompts.
    """
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "RequestTTY": "no",
        "ConnectTimeout": "15",
        "ServerAliveInterval": "10",
        "LogLevel": "ERROR",
    }
    if key is not None:
        options |= {"IdentityFile": quoted(_path(key)), "IdentitiesOnly": "yes"}
    if known_hosts is not None:
        options |= {"UserKnownHostsFile": quoted(_path(known_hosts))}
        options |= {"GlobalKnownHostsFile": "/dev/null"}
    argv = ["ssh", "-T", "-l", user, "-p", str(port)]
    argv += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return [*argv, "--", address]


def ssh_command(folder: Path) -> str:
    """For people: how to enter a kept clone by hand."""
    return shlex.join(["ssh", "-F", str(folder / "ssh_config"), HOST])


def _pump(descriptor: int, deadline: Deadline, on_bytes: Callable[[bytes], None]) -> None:
    while True:
        ready, _, _ = select.select([descriptor], [], [], min(1.0, deadline.remaining()))
        deadline.check()  # also while output comes: a script that never ends can talk for ever
        if not ready:
            continue
        data = os.read(descriptor, 65536)
        if not data:
            return
        on_bytes(data)
