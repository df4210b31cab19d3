"""Reading a followed script: its stages, its progress and its words, told apart by a mark.

Our scripts print ``MARK stage NAME`` and ``MARK status LINE``; the mark is random per call, so
that no output of the guest can be taken for it. A status may come in the middle of another
line, because the package manager and its scripts write to the same place.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from sandbox.managers import OnLine

MAX_LINES = 50_000  # per stage: a guest that prints without end must not fill our memory
MAX_LINE = 4_000
SILENT = ("held", "kernel", "release", "uris")  # stages that only answer us: not part of the story
_NOISE = re.compile(r"\(Reading database \.\.\.(?: \d+%)?$")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class ManagerTranscript:
    """Feed it lines; read ``stages`` (name -> lines) and ``lines`` (all of them, in order)."""

    def __init__(self, mark: str, on_status: Callable[[str, str], None], on_line: OnLine) -> None:
        """``on_status`` gets the stage and the package manager's status line."""
        self.mark = mark
        self.stage = ""
        self.stages: dict[str, deque[str]] = {"": deque(maxlen=MAX_LINES)}
        self.statuses: deque[str] = deque(maxlen=MAX_LINES)
        self._all: deque[str] = deque(maxlen=MAX_LINES)
        self._on_status = on_status
        self._on_line = on_line

    def feed(self, line: str) -> None:
        before, found, after = line.partition(self.mark)
        self._text(before)
        if not found:
            return
        verb, _, value = after.strip("\r\n").lstrip(" ").partition(" ")
        if verb == "stage":
            self.stage = value[:MAX_LINE]
            self.stages.setdefault(self.stage, deque(maxlen=MAX_LINES))
        elif verb == "status":
            self.statuses.append(value[:MAX_LINE])
            self._on_status(self.stage, value[:MAX_LINE])

    def _text(self, raw: str) -> None:
        pieces = [piece for piece in raw.rstrip("\n").split("\r") if piece.strip()]
        line = _CONTROL.sub("", pieces[-1]).rstrip()[:MAX_LINE] if pieces else ""
        if not line or _NOISE.match(line):
            return
        self.stages[self.stage].append(line)
        if self.stage not in SILENT:
            self._all.append(line)
            self._on_line(line)

    def of(self, stage: str) -> list[str]:
        """The lines of one stage; none if it was not reached."""
        return list(self.stages.get(stage, ()))

    @property
    def lines(self) -> list[str]:
        return list(self._all)

    @property
    def last(self) -> str:
        return self._all[-1] if self._all else ""


def sections_of(text: str, mark: str) -> dict[str, list[str]]:
    """The stages of a script that was run to its end."""
    transcript = ManagerTranscript(mark, lambda stage, status: None, lambda line: None)
    for line in text.split("\n"):
        transcript.feed(line)
    return {stage: list(lines) for stage, lines in transcript.stages.items()}
