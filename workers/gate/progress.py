"""What people see while they wait: a line for each phase, and on a terminal what goes on now."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from sandbox.cli.terminal import WORDS
from sandbox.core.clean_text import one_line
from workers.gate.job import Job
from workers.gate.values import Away, GateEvent, GateRun

STILL = 300.0  # seconds; CI that hears nothing for longer may give a job up
_WORDS = {phase.value: word for phase, word in WORDS.items()}
_SHOWN = {"state": "bold", "check": "red"}


class ProgressLine:
    """A context manager. All that it shows is one line, and can do nothing to a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._told = self._began
        self._live: Live | None = None
        self._now = ""
        self._phase = ""
        self._ahead = ""  # told by a look; its event may still come
        self._trouble = ""

    def __enter__(self) -> ProgressLine:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._line,
                console=self._console,
                refresh_per_second=2,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, *_details: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str, style: str = "") -> None:
        self._told = time.monotonic()
        self._console.print(Text.assemble((f"{self._elapsed()}  ", "dim"), (one_line(text), style)))

    def submitted(self, run_id: str, *, joined: bool) -> None:
        word = "joined a run that is open" if joined else "queued"
        self.say(f"run {run_id}: {word}", "bold")

    def heard(self, heard: GateEvent | None) -> None:
        if heard is None:
            self._still()
        elif heard.kind == "phase":
            if heard.text == self._ahead:
                self._ahead, self._phase, self._now = "", heard.text, _word(heard.text)
            else:
                self._enter(heard.text)
        elif heard.kind in _SHOWN:
            self.say(heard.text, _SHOWN[heard.kind])
        else:
            percent = "" if heard.percent is None else f" {heard.percent:.0f} %"
            self._now = f"{_word(self._phase)}: {one_line(heard.text, 60)}{percent}"
            self._still()

    def seen(self, seen: GateRun) -> None:
        """Where the events cannot be followed."""
        if seen.phase and seen.phase != self._phase:
            self._enter(seen.phase)
            self._ahead = seen.phase

    def away(self, problem: Away) -> None:
        """Once for each trouble, however often it is tried."""
        if problem.message != self._trouble:
            self._trouble = problem.message
            self.say(f"{problem.message}; trying again", "yellow")

    def back(self) -> None:
        if self._trouble:
            self._trouble = ""
            self.say("the connection is back", "green")

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._now = _word(phase)
        self.say(self._now, "cyan")

    def _still(self) -> None:
        if not self._console.is_terminal and time.monotonic() - self._told > STILL:
            self.say(f"still: {self._now or 'waits for a worker'}")

    def _line(self) -> Text:
        return Text(f"{self._elapsed()}  ▸ {self._now or 'waiting'}", "yellow")

    def _elapsed(self) -> str:
        whole = int(time.monotonic() - self._began)
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _word(phase: str) -> str:
    return _WORDS.get(phase) or one_line(phase, 60)


@contextlib.contextmanager
def commands_stopped(job: Job, *, err: bool) -> Iterator[None]:
    """GitHub's runner obeys lines of the log that look like commands: a guest must not give any.

    Only a random word, which a guest cannot guess, enables commands again.
    """
    if not job.obeys:
        yield
        return
    word = secrets.token_hex(16)
    click.echo(f"::stop-commands::{word}", err=err)
    try:
        yield
    finally:
        click.echo(f"::{word}::", err=err)
