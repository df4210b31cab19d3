"""What the checks' process tells the sandbox: one JSON line an event, believed only in order.

The lines come from a process that runs a scenario's own code, so the reader trusts nothing: an
event must carry the session's token and the next number, and must fit what came before.
Whatever does not is :class:`Garbled`, and a garbled session is never a passed one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum

from pydantic import ValidationError

from sandbox.core.records import CheckResult, Record

MAX_DETAIL = 64 * 1024  # characters of traceback and output kept for one check
MAX_MESSAGE = 500
MAX_LINE = 8 * 1024 * 1024  # bytes; a full detail of \uXXXX escapes and 10 000 names fit
MAX_TOTAL = 256 * 1024 * 1024


class Event(StrEnum):
    """What can happen in a session of checks."""

    COLLECTING = "collecting"  # name: the file
    COLLECTED = "collected"  # names: all checks, in order
    BEGIN = "begin"  # name: the check
    RESULT = "result"
    BROKEN = "broken"  # message: why a check cannot be run at all
    LOST = "lost"  # message: the connection to the guest broke
    FINISH = "finish"  # status: pytest's own


class CheckEvent(Record):
    """One event."""

    token: str
    number: int
    event: Event
    name: str = ""
    names: tuple[str, ...] = ()
    message: str = ""
    result: CheckResult | None = None
    status: int = 0


class Garbled(Exception):
    """The other side sent what it cannot have meant."""


def clean(text: str, limit: int = MAX_DETAIL) -> str:
    """Text that survives JSON and is no longer than ``limit``: its middle goes first."""
    sound = text.encode("utf-8", "replace").decode("utf-8")
    if len(sound) <= limit:
        return sound
    mark = f"\n… {len(sound) - limit} characters left out …\n"
    keep = max(0, limit - len(mark))
    head = keep // 2
    return (sound[:head] + mark + sound[len(sound) - (keep - head) :])[:limit]


def one_line(text: str, limit: int = MAX_MESSAGE) -> str:
    """The first line that says something, without control characters."""
    sound = text.encode("utf-8", "replace").decode("utf-8")
    for line in sound.splitlines():
        said = " ".join("".join(c if c.isprintable() else " " for c in line).split())
        if said:
            return said if len(said) <= limit else said[: limit - 1] + "…"
    return ""


class Channel:
    """The writing side, in the checks' process."""

    def __init__(self, descriptor: int, token: str) -> None:
        self._descriptor = descriptor
        self._token = token
        self._number = 0

    def send(
        self,
        event: Event,
        *,
        name: str = "",
        names: tuple[str, ...] = (),
        message: str = "",
        result: CheckResult | None = None,
        status: int = 0,
    ) -> None:
        """Write one event, whole, before anything else happens."""
        line = CheckEvent(
            token=self._token,
            number=self._number,
            event=event,
            name=name,
            names=names,
            message=one_line(message),
            result=result,
            status=status,
        )
        self._number += 1
        rest = line.model_dump_json().encode() + b"\n"
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


class SessionTranscript:
    """The reading side: what is known of a session so far."""

    def __init__(self, token: str, on_result: Callable[[CheckResult], None]) -> None:
        self._token = token
        self._on_result = on_result
        self._number = 0
        self._buffer = b""
        self._total = 0
        self._waiting: set[str] = set()  # collected, no result yet
        self.results: list[CheckResult] = []
        self.names: tuple[str, ...] | None = None
        self.collecting = ""
        self.running = ""
        self.broken: list[str] = []
        self.lost = ""
        self.status: int | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """Collected checks without a result, in order."""
        return tuple(name for name in self.names or () if name in self._waiting)

    @property
    def partial(self) -> bool:
        """Whether the other side stopped in the middle of a line."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take in bytes as they come; raise :class:`Garbled` at the first that does not fit."""
        self._total += len(data)
        if self._total > MAX_TOTAL:
            raise Garbled("they are far too long")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_LINE:
            raise Garbled("a line of them never ends")
        for line in lines:
            self._take(self._parse(line))

    def _parse(self, raw: bytes) -> CheckEvent:
        try:
            line = CheckEvent.model_validate_json(raw, strict=False)
        except ValidationError as problem:
            shown = one_line(raw[:60].decode(errors="replace"))
            raise Garbled(f"“{shown}” is not one of them") from problem
        if line.token != self._token:
            raise Garbled("a line did not come from the checks' runner")
        if line.number != self._number:
            raise Garbled(f"line {self._number} is missing or doubled")
        if self.status is not None:
            raise Garbled("something follows their end")
        self._number += 1
        return line

    def _take(self, line: CheckEvent) -> None:
        match line.event:
            case Event.COLLECTING:
                self.collecting = line.name
            case Event.COLLECTED:
                self._take_names(line.names)
            case Event.BEGIN:
                self._take_begin(line.name)
            case Event.RESULT:
                self._take_result(line.result)
            case Event.BROKEN:
                self.broken.append(line.message or "a check is broken")
            case Event.LOST:
                self.lost = line.message or "the SSH connection to the guest is gone"
            case Event.FINISH:
                self.status = line.status

    def _take_names(self, names: tuple[str, ...]) -> None:
        if self.names is not None:
            raise Garbled("the checks were listed twice")
        self._waiting = set(names)
        if len(self._waiting) != len(names):
            raise Garbled("two checks have the same name")
        self.names = names
        self.collecting = ""

    def _take_begin(self, name: str) -> None:
        if self.running or name not in self._waiting:
            raise Garbled(f"“{one_line(name, 80)}” began out of turn")
        self.running = name

    def _take_result(self, result: CheckResult | None) -> None:
        if result is None or not self.running or result.name != self.running:
            raise Garbled("a result belongs to no check that was running")
        if len(result.detail) > MAX_DETAIL or result.message != one_line(result.message):
            raise Garbled(f"the result of “{one_line(result.name, 80)}” is malformed")
        self._waiting.discard(result.name)
        self.running = ""
        self.results.append(result)
        self._on_result(result)
