"""Commands of ours as processes of their own, forked from one that has imported what they need: a
tenth of a second where a new interpreter takes two.

What a command does, and its signals, descriptors, environment and end are those of any process.
Its line in ``ps`` and its parent are the forking process's. Tests of how a command starts start it
themselves.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

from tests.support.machine.forker import STATUS
from tests.support.paths import ROOT

SANDBOX = "workers.cli:main"  # what the package installs as `sandbox`
RESUMING = "tests.support.guests.resuming:main"  # the same, on saved boots
_one_at_a_time = threading.Lock()


class Forked:
    """A started command, in a session of its own; its methods are those of ``Popen``."""

    def __init__(
        self,
        arguments: Sequence[object],
        *,
        environment: Mapping[str, str],
        output: IO[bytes],
        errors: IO[bytes] | None = None,
        cwd: Path | None = None,
        entry: str = SANDBOX,
    ) -> None:
        self.args = ["sandbox", *map(str, arguments)]
        self.returncode: int | None = None
        self._status, theirs = socket.socketpair()
        asked = {
            "arguments": self.args[1:],
            "environment": dict(environment),
            "cwd": str(cwd or Path.cwd()),
            "entry": entry,
            "options": {"prog_name": "sandbox"} if entry == SANDBOX else {},
        }
        with open(os.devnull, "rb") as nothing, theirs:
            streams = (nothing.fileno(), output.fileno(), (errors or output).fileno())
            with _one_at_a_time:
                forker = _forker()
            socket.send_fds(forker, [json.dumps(asked).encode()], [*streams, theirs.fileno()])
        self.pid = self._read()

    def _read(self) -> int:
        data = self._status.recv(STATUS.size)
        assert data, "the forking process is gone"
        number: int = STATUS.unpack(data)[0]
        return number

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises :class:`subprocess.TimeoutExpired` after so many seconds."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._end()
        assert self.returncode is not None
        return self.returncode

    def _end(self) -> None:
        self.returncode = self._read()
        self._status.close()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    arguments: Sequence[object],
    *,
    environment: Mapping[str, str],
    cwd: Path | None = None,
    timeout: float | None = None,
    entry: str = SANDBOX,
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run`` with captured output; killed when it takes longer than ``timeout``."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = Forked(
            arguments, environment=environment, output=output, errors=errors, cwd=cwd, entry=entry
        )
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        said = []
        for file in (output, errors):
            file.seek(0)
            said.append(file.read().decode())
        return subprocess.CompletedProcess(process.args, status, *said)


@cache
def _forker() -> socket.socket:
    """Started when it is first needed; one for a session of pytest."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)  # requests stay apart
    environment = {n: v for n, v in os.environ.items() if not n.startswith("SANDBOX_")}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.machine.forker", str(theirs.fileno())],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
