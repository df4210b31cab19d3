"""What an observation has no time for, looked at beside other steps: they hardly wait for it.

A guest is idle for a while in each of them, and the script has the lowest priority there. A guest
that does not answer in time is left alone: its observation then stays as it was, and the
differences say so.
"""

from __future__ import annotations

import threading
from importlib.resources import files

from sandbox.core.deadline import Deadline
from sandbox.core.errors import SandboxError
from sandbox.core.guest_shell import Shell, new_mark
from sandbox.core.records import Observation, Wide
from sandbox.observe.wide_parse import parse_wide

SECONDS = 60.0  # at most, for all of it
PATIENCE = 20.0  # at most, once nothing else is left to be done


class Aside:
    """Looks in a thread of its own, from now on."""

    def __init__(self, shell: Shell, deadline: Deadline) -> None:
        self._shell = shell
        self._deadline = deadline
        self._found: Wide | None = None
        # A daemon: what hangs in it hangs in the guest, and ends with our connection there.
        self._thread = threading.Thread(target=self._look, name="wide", daemon=True)
        self._thread.start()

    def added_to(self, seen: Observation) -> Observation:
        """The observation with what was found; waits for it, but not for long."""
        patience = self._deadline.within(PATIENCE)
        while self._thread.is_alive() and not patience.expired():
            self._thread.join(min(0.2, patience.remaining()))
        return seen.model_copy(update={"wide": self._found})

    def _look(self) -> None:
        mark = new_mark()
        script = files("sandbox.observe").joinpath("wide.sh").read_text()
        try:
            answer = self._shell.run(script, self._deadline.within(SECONDS), args=(mark,))
        except SandboxError:
            return  # nothing is known then, and that is all
        self._found = parse_wide(answer.stdout, mark)
