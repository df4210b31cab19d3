"""The way to a host over a real sshd on loopback; what it leaves is looked for afterwards."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from sandbox.hosts import transport as host_module
from sandbox.hosts.transport import RemoteHost
from tests.support.fakes.guest_world import port_of
from tests.support.machine.sshd import Sshd
from tests.support.waiting import holds_soon

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Way:
    """How a test reaches its host, and what it left on the way."""

    sshd: Sshd
    sockets: Path

    def uri(self, scheme: str = "xen", path: str = "system", **options: str) -> str:
        """With nothing of the operator's own ssh configuration, known hosts included."""
        config = self.sshd.folder / "hosts_config"
        config.write_text("Host *\n  UserKnownHostsFile /dev/null\n  IdentitiesOnly yes\n")
        given = {"keyfile": str(self.sshd.folder / "user_key"), "no_verify": "1"}
        given |= {"ssh_config": str(config)} | options
        query = "&".join(f"{key}={quote(value)}" for key, value in given.items())
        return f"{scheme}+ssh://root@{LOOPBACK}:{port_of(self.sshd)}/{path}?{query}"

    def host(self, **options: str) -> RemoteHost:
        return RemoteHost(self.uri(**options))

    def logins(self) -> int:
        return (self.sshd.folder / "sshd.log").read_text().count("Accepted publickey")

    def programs(self) -> list[str]:
        """Our ssh processes: all have the sockets' folder on their command line."""
        mark = f"{self.sockets}/"
        return [line for line in command_lines() if mark in line and "ssh" in line.split()[0]]


def command_lines() -> Iterator[str]:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue  # it ended meanwhile
        if line.strip():
            yield os.fsdecode(line)


@contextmanager
def way_to(sshd: Sshd) -> Iterator[Way]:
    """Ends the shared connections afterwards, which would live on for a minute by themselves."""
    with (
        tempfile.TemporaryDirectory(prefix="sbtest-") as made,
        pytest.MonkeyPatch.context() as patch,
    ):
        sockets = Path(made) / "ssh"
        patch.setattr(host_module, "_SOCKETS", sockets)
        way = Way(sshd, sockets)
        yield way
        masters = [path for path in sockets.glob("*") if path.is_socket()]
        for master in masters:
            argv = ["ssh", "-F", "none", "-o", f"ControlPath={master}", "-O", "exit", "x"]
            subprocess.run(argv, check=True, capture_output=True)
        assert holds_soon(lambda: way.programs() == []), way.programs()
