"""The way by the service's database, on a machine of the service."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sandbox.core.errors import HostError, RequestError, SandboxError
from sandbox.scenario.request import Request
from workers.artifacts import reports
from workers.database import Database
from workers.database.states import ENDED, WrongState
from workers.gate.values import Away, GateEvent, GateRun
from workers.queue import intake, reading, submission
from workers.queue.presence import present
from workers.queue.terminal import who
from workers.settings import ServiceSettings

_LOOK_EVERY = 0.5  # seconds
_T = TypeVar("_T")


@dataclass
class DatabaseQueue:
    """Implements :class:`workers.gate.values.Queue`."""

    database: Database
    settings: ServiceSettings
    request: Request
    fresh: bool
    say: Callable[[str], None]
    repeatable: bool = False  # without a key it would join the run of another job

    @property
    def where(self) -> str:
        return f"the service of this machine ({self.database.url})"

    def submit(self, _turn: int) -> tuple[str, bool]:
        told = _or_away(
            lambda: intake.submit(
                self.database,
                self.settings,
                self.request,
                "gate",
                self.say,
                origin=f"gate {who()}",
                fresh=self.fresh,
            )
        )
        return told.run_id, told.joined

    def look(self, run_id: str) -> GateRun:
        row = _or_away(lambda: reading.get(self.database, run_id))
        same = ("id", "scenario", "guest", "host", "state", "verdict", "reason", "phase", "waiting")
        more = ("submitted", "ended")
        return GateRun(**{name: getattr(row, name) for name in (*same, *more)})

    def follow(self, run_id: str, last: int, _seconds: float) -> Iterator[GateEvent | None]:
        while True:
            row = self.look(run_id)  # before its events: the last one is there then
            events = _or_away(partial(reading.events_after, self.database, run_id, last))
            for event in events:
                last = event.id
                yield GateEvent(event.id, event.kind, event.text, event.percent)
            if row.state in ENDED and not events:
                return
            yield None
            time.sleep(_LOOK_EVERY)

    def cancel(self, run_id: str) -> None:
        try:
            _or_away(lambda: submission.cancel(self.database, run_id, f"gate {who()}"))
        except WrongState:
            return  # it has ended: a look tells how

    def report(self, run_id: str, format: str) -> str:
        try:
            return _or_away(lambda: reports.report(self.database, self.settings, run_id, format))
        except WrongState as problem:
            raise Away(problem.message, problem.hint) from problem

    def hurry(self, _seconds: float) -> None:
        """A database has a patience of its own."""

    def link(self, run_id: str) -> str:
        return f"sandbox artifacts {run_id}"


def runs_here(database: Database) -> bool:
    """Whether a worker of the service was heard of lately."""
    try:
        return any(not worker.gone for worker in present(database))
    except SandboxError:  # no schema yet, or no database: nothing runs by it
        return False


def _or_away(ask: Callable[[], _T]) -> _T:
    try:
        return ask()
    except RequestError:
        raise
    except HostError as problem:  # a database that is away comes back
        raise Away(problem.message, problem.hint) from problem
