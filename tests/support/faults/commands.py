"""The `sandbox` command as a process of its own, to be watched and cut off."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sandbox.cli.terminal import WORDS
from sandbox.core.deadline import Deadline
from sandbox.core.records import Phase
from tests.support.machine import forked

PATIENCE = 600.0  # seconds; a busy machine under emulation


class Command:
    """A started command; its output, both streams, is in a file.

    ``program``: in place of the command, with an interpreter of its own.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        environment: Mapping[str, str],
        output: Path,
        *,
        entry: str = forked.SANDBOX,
        program: Sequence[object] = (),
        patience: float = PATIENCE,
    ) -> None:
        self._output = output
        self._patience = patience
        self._process: subprocess.Popen[bytes] | forked.Forked
        with output.open("wb") as file:
            if program:
                self._process = subprocess.Popen(
                    [str(word) for word in (*program, *arguments)],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=dict(environment),
                    start_new_session=True,
                )
            else:
                self._process = forked.Forked(
                    arguments, environment=environment, output=file, entry=entry
                )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for(self, words: str) -> None:
        """Until it has said this; fails when it ends before."""
        deadline = Deadline(self._patience, f"waiting for {words!r}")
        while words not in self.output:
            assert self._process.poll() is None, f"it ended before {words!r}:\n{self.output}"
            deadline.check(self.output)
            time.sleep(0.01)

    def wait_for_phase(self, phase: Phase) -> None:
        self.wait_for(f"… {WORDS[phase]} (at most")

    def send(self, number: signal.Signals) -> None:
        """To its process group, as a terminal does."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """kill -9, of this process alone: nobody is left to clean up."""
        self._process.kill()
        self._process.wait()

    def finish(self) -> int:
        """Wait; its exit status."""
        return self._process.wait(self._patience)

    def succeed(self) -> str:
        """Wait; its output. Fails with it where it failed."""
        assert self.finish() == 0, self.output
        return self.output

    def records(self) -> list[dict[str, Any]]:
        """What `list --json` said."""
        return [json.loads(line) for line in self.succeed().splitlines()]

    def end(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.send(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(120)
            self._process.kill()
            self._process.wait()
