"""testinfra's ssh backend, kept to the shared connection and able to tell 255 from 255."""

from __future__ import annotations

import shlex
import time

from testinfra.backend.base import CommandResult
from testinfra.backend.ssh import SshBackend
from testinfra.host import Host

from sandbox.checks.connection import NOT_SHARED, CheckConnection

SSH_FAILED = 255
# A busy guest may refuse one more session for a moment although the connection is fine.
PAUSES = (0.5, 1.0, 2.0)


class ConnectionGone(BaseException):
    """The connection to the guest broke: no ``except Exception`` of a check may swallow it."""


class Said(CommandResult):  # type: ignore[misc]  # testinfra ships no types
    """In testinfra's messages: what was run and what that said, not how it was transported."""

    def __str__(self) -> str:
        lines = [line for line in (self.stderr or self.stdout).splitlines() if line.strip()]
        command = self.command.decode(errors="replace")
        return f"`{command}`" + (f": {lines[0].strip()}" if lines else "")


class SharedSsh(SshBackend):  # type: ignore[misc]  # testinfra ships no types
    """Runs every command of the checks over one :class:`CheckConnection`.

    Raises :class:`ConnectionGone` once it is lost, and from then on at once; a command that
    itself exits with 255 is a result like any other.
    """

    def __init__(self, connection: CheckConnection, *, sudo: bool = False) -> None:
        super().__init__(
            connection.host,
            ssh_config=str(connection.ssh_config),
            controlpersist=0,
            ssh_extra_args=shlex.join(connection.options()),
            sudo=sudo,
        )
        self.connection = connection
        self.lost = ""

    def result(
        self, rc: int, cmd: bytes, stdout: str | bytes, stderr: str | bytes
    ) -> CommandResult:
        """What testinfra makes of a command that has ended."""
        return Said(self, rc, cmd, stdout, stderr)

    def run_ssh(self, command: str) -> CommandResult:
        """Run ``command`` in the guest; raise :class:`ConnectionGone` when there is no line."""
        if self.lost:
            raise ConnectionGone(self.lost)
        result = self._run_once(command)
        for pause in PAUSES:
            if result.rc != SSH_FAILED or not self._was_refused(result):
                break
            time.sleep(pause)
            result = self._run_once(command)
        if result.rc != SSH_FAILED:
            return result
        self.lost = self.connection.trouble()
        if not self.lost and NOT_SHARED in result.stderr:
            self.lost = "the guest accepts no more SSH sessions"
        if self.lost:
            raise ConnectionGone(self.lost)
        return result

    def _was_refused(self, result: CommandResult) -> bool:
        """Whether the command never reached the guest although the connection is there."""
        return NOT_SHARED in result.stderr and self.connection.is_held()

    def _run_once(self, command: str) -> CommandResult:
        try:
            return super().run_ssh(command)
        except RuntimeError as problem:
            # testinfra raises for any exit status 255, also for one of the command itself.
            if problem.args and isinstance(problem.args[0], CommandResult):
                return problem.args[0]
            raise


def open_host(connection: CheckConnection, *, sudo: bool) -> Host:
    """testinfra's ``host`` over the shared connection."""
    backend = SharedSsh(connection, sudo=sudo)
    host = Host(backend)
    backend.set_host(host)
    return host
