"""The one shared SSH connection of a run, as the checks use it: never a second one beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded
from sandbox.core.process import run, tail

# What ssh says on stderr when it would have to open a connection of its own. Such a command
# never reached the guest, so its status 255 cannot be the guest's.
NOT_SHARED = "sandbox: the shared connection was not there"
PROBE_SECONDS = 30.0  # a guest under emulation may well stall for a while
CONNECT_SECONDS = 10
MASTER_PID = re.compile(r"pid=(\d+)")


@dataclass(frozen=True)
class CheckConnection:
    """``host`` is the name in ``ssh_config``; ``master_pid`` the process that holds the line."""

    ssh_config: Path
    host: str
    master_pid: int = 0

    def options(self) -> tuple[str, ...]:
        """Options that make ssh use the shared connection or fail at once.

        Without its control socket ssh would silently connect anew: slower, and a guest that
        went away and came back would look as if it had been there all the time.
        """
        return (
            *("-o", "BatchMode=yes"),
            *("-o", "ControlMaster=no"),
            *("-o", f"ConnectTimeout={CONNECT_SECONDS}"),
            # A shell of its own: its output to ssh must stay open until the words are out.
            *("-o", f"ProxyCommand=sh -c 'echo {NOT_SHARED} >&2'"),
        )

    def argv(self, *arguments: str) -> tuple[str, ...]:
        """The ssh command line for ``arguments``, which include the host's name."""
        return ("ssh", "-F", str(self.ssh_config), *self.options(), *arguments)

    def find_master(self, deadline: Deadline) -> int:
        """The process id of the connection's master, 0 when there is none."""
        checked = run(self.argv("-O", "check", self.host), deadline, check=False)
        match = MASTER_PID.search(checked.stderr + checked.stdout)
        return int(match.group(1)) if checked.ok and match else 0

    def is_held(self) -> bool:
        """Whether the master that we know still holds the connection, as far as it knows."""
        master = self.find_master(Deadline(PROBE_SECONDS, "probe of the SSH connection"))
        return master != 0 and self.master_pid in (0, master)

    def trouble(self) -> str:
        """Why the connection is lost, in words; empty when it works.

        It works when the same master still holds it and the guest answers a command: a master
        may live on for a while after its guest has gone.
        """
        deadline = Deadline(PROBE_SECONDS, "probe of the SSH connection")
        try:
            master = self.find_master(deadline)
            if master == 0:
                return "the SSH connection to the guest is gone"
            if self.master_pid and master != self.master_pid:
                return "the SSH connection to the guest was replaced by another one"
            probe = run(self.argv("-n", self.host, "true"), deadline, check=False)
        except DeadlineExceeded:
            return f"the guest did not answer over SSH within {PROBE_SECONDS:.0f} s"
        if NOT_SHARED in probe.stderr:
            return "the guest accepts no more SSH sessions"
        if not probe.ok:
            said = tail(probe.stderr, 1)
            return f"the guest no longer runs commands over SSH: {said or f'exit {probe.status}'}"
        return ""
