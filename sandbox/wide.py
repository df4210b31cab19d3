"""What an observation has no time for, looked at beside the checks: it costs a rehearsal nothing.

The guest is idle for most of the checks' time. A guest that does not answer in time is left alone:
its observation then stays as it was, and the differences say so.
"""

from __future__ import annotations

import secrets
import threading
from importlib.resources import files
from types import TracebackType

from sandbox.deadline import Deadline
from sandbox.errors import SandboxError
from sandbox.records import Observation, Wide
from sandbox.shell import Shell
from sandbox.wide_parse import parse_wide

SECONDS = 60.0  # at most, for all of it
PATIENCE = 20.0  # at most, once the checks are over


class Aside:
    """A context manager: looks in a thread of its own while its block does something else.

    Leaving the block waits for the answer, unless the block ended in an exception.
    """

    def __init__(self, shell: Shell, deadline: Deadline) -> None:
        self._shell = shell
        self._deadline = deadline
        self._found: Wide | None = None
        # A daemon: what hangs in it hangs in the guest, and ends with our connection there.
        self._thread = threading.Thread(target=self._look, name="wide", daemon=True)

    def __enter__(self) -> Aside:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _problem: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            return
        patience = self._deadline.within(PATIENCE)
        while self._thread.is_alive() and not patience.expired():
            self._thread.join(min(0.2, patience.remaining()))

    def added_to(self, seen: Observation) -> Observation:
        """The observation with what was found."""
        return seen.model_copy(update={"wide": self._found})

    def _look(self) -> None:
        mark = f"%%{secrets.token_hex(16)}%%"
        script = files("sandbox").joinpath("wide.sh").read_text()
        try:
            answer = self._shell.run(script, self._deadline.within(SECONDS), args=(mark,))
        except SandboxError:
            return  # nothing is known then, and that is all
        self._found = parse_wide(answer.stdout, mark)
