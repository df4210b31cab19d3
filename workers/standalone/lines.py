"""The processes' lines: one JSON object each, or text for a person on a terminal.

Ours come as JSON, Redis' in its own way, and what a program says before it can log as it likes.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import IO, Any

import click
from structlog.dev import ConsoleRenderer

from sandbox.core.clean_text import one_line

_REDIS = re.compile(r"^\d+:[A-Z] \d+ \w+ \d{4} [\d:.]+ [.*#-] (?P<text>.*)$")
_TROUBLE = re.compile(r"warning|error|fail|fatal|can't|denied|corrupt", re.IGNORECASE)
# About copies of a large memory: ours is a few kilobytes.
_NO_TROUBLE = re.compile(r"WARNING Memory overcommit must be enabled")
_COLORS = {
    "up": "bright_white",
    "redis": "red",
    "worker": "cyan",
    "beat": "magenta",
    "api": "green",
}
_LONGEST = 4000
Said = dict[str, Any]


class Lines:
    """Where all of them are written."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._for_people = stream.isatty()
        self._render = ConsoleRenderer(colors=self._for_people, pad_event_to=0)

    def say(self, event: str, level: str = "info", **facts: object) -> None:
        """A line of `sandbox up` itself."""
        self._write("up", {"event": event, **facts, "level": level, "timestamp": _now()})

    def pass_on(self, name: str, line: bytes) -> None:
        """A line of one of the processes."""
        text = line.decode(errors="replace").rstrip()[:_LONGEST]
        if text:
            said = understood(text)
            if said.get("level") != "debug":
                self._write(name, said)

    def _write(self, name: str, said: Said) -> None:
        if self._for_people:
            head = click.style(f"{name:<7}", fg=_COLORS.get(name))
            shown = {key: value for key, value in said.items() if key != "logger"}
            shown["timestamp"] = time.strftime("%H:%M:%S")
            text = f"{head}{self._render(None, '', shown)}"
        else:
            text = json.dumps({**said, "process": name}, default=str)
        with contextlib.suppress(OSError):  # the terminal is gone: the service is not
            self._stream.write(f"{text}\n")
            self._stream.flush()


def understood(text: str) -> Said:
    """A line as an event: JSON of ours, Redis' form, or plain text."""
    if text.startswith("{"):
        try:
            said = json.loads(text)
        except ValueError:
            said = None
        if isinstance(said, dict) and "event" in said:
            return {str(name): value for name, value in said.items()}
    found = _REDIS.match(text)
    level, event = ("info", text) if found is None else ("debug", found["text"])
    trouble = _TROUBLE.search(event) and not _NO_TROUBLE.match(event)
    if found is not None and trouble:  # else a step of its start, work or end
        level = "warning"
    return {"event": one_line(event, _LONGEST), "level": level, "timestamp": _now()}


def _now() -> str:
    seconds = time.time()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1e6):06d}Z"
