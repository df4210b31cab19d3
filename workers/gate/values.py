"""What the ways of the gate share: frozen values, and what a queue has to be able to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sandbox.core.errors import HostError, SandboxError
from sandbox.core.records import Verdict
from workers.database.states import RunState

TIMEOUT = 124  # no verdict in time: as of timeout(1)
CANCELLED = 130


class Away(HostError):
    """The other side does not answer at the moment: a later try may succeed.

    ``after``: seconds that the other side asks to wait before the next try.
    """

    def __init__(self, message: str, hint: str = "", after: float = 0.0) -> None:
        super().__init__(message, hint)
        self.after = after


@dataclass(frozen=True)
class GateRun:
    """A queued run as it is now."""

    id: str
    scenario: str
    guest: str
    host: str
    state: RunState
    verdict: Verdict | None
    reason: str
    phase: str
    waiting: str
    submitted: float
    ended: float | None


@dataclass(frozen=True)
class GateEvent:
    """Something that happened in a run; ids grow."""

    id: int
    kind: str  # state, phase, detail, check
    text: str
    percent: float | None


class Queue(Protocol):
    """Where runs are queued. All of it raises :class:`Away` for what a later try may bring, and
    other :class:`SandboxError` for what it will not."""

    @property
    def where(self) -> str:
        """For people."""

    @property
    def repeatable(self) -> bool:
        """Whether ``submit`` asked again in the same turn is the same run."""

    def submit(self, turn: int) -> tuple[str, bool]:
        """The run's id, and whether an equal one was open: then it is that one.

        ``turn``: another is another wish, however ``repeatable`` this is.
        """

    def look(self, run_id: str) -> GateRun: ...

    def follow(self, run_id: str, last: int, seconds: float) -> Iterator[GateEvent | None]:
        """What happens after the event ``last``, as it comes, until the run or the connection
        ends; None now and then while nothing happens. ``seconds``: all that one may wait."""

    def cancel(self, run_id: str) -> None:
        """Take it back; one that has ended already is left as it is."""

    def report(self, run_id: str, format: str) -> str:
        """Raises :class:`Away` where it will be there soon."""

    def hurry(self, seconds: float) -> None:
        """Limit the wait for each answer from now on: CI is about to kill this process."""

    def link(self, run_id: str) -> str:
        """Where people find all of it: a URL, or a command."""


@dataclass(frozen=True)
class Ending:
    """How it ended. ``word``: a verdict's, ``cancelled`` or ``timeout``."""

    word: str
    code: int
    reason: str
    hint: str = ""  # what to do
    note: str = ""  # what became of the run, or of its report
    run_id: str = ""
    guest: str = ""
    started: float = 0.0
    ended: float = 0.0
    link: str = ""
    reports: Mapping[str, str] = field(default_factory=dict)  # by format

    @property
    def allowed(self) -> bool:
        return self.word == Verdict.PASS.value

    @classmethod
    def of(cls, verdict: Verdict, reason: str, hint: str = "") -> Ending:
        return cls(verdict.value, verdict.exit_code, reason, hint)

    @classmethod
    def of_problem(cls, problem: SandboxError) -> Ending:
        """The kind of the error decides the verdict; no error opens the gate."""
        host = isinstance(problem, HostError)
        verdict = Verdict.ERROR if host else Verdict.REJECTED
        return cls.of(verdict, problem.message, problem.hint)
