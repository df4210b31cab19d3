"""Reads the database for all watchers at once: two hundred of them cost hardly more than one.

A new watcher reads the existing events by itself. From then on the newest events of all watched
runs are read together, at most ten times a second, and each watcher takes its own from memory.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from workers.database import Database
from workers.queue import reading
from workers.queue.values import RunEvent, RunRow

FRESH = 0.1  # seconds that a look is good for: what it adds to the wait of those who share it
# Ids are given before their transactions end: an event may turn up after one with a larger id.
LATE = 1000
_KEPT = 500  # events a run; who is behind by more reads by itself


@dataclass
class _Tail:
    """The newest events of a run: all with an id beyond ``after``."""

    after: int
    events: deque[RunEvent] = field(default_factory=deque)

    @property
    def last(self) -> int:
        return self.events[-1].id if self.events else self.after

    def add(self, event: RunEvent) -> None:
        if event.id > self.last:
            self.events.append(event)
            if len(self.events) > _KEPT:
                self.after = self.events.popleft().id


class Looks:
    """Shared by all watchers of a process, in whichever thread they look."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._watched: Counter[str] = Counter()
        self._tails: dict[str, _Tail] = {}
        self._runs: dict[str, RunRow] = {}
        self._newest = 0
        self._looked = -FRESH

    @contextlib.contextmanager
    def watching(self, run_id: str) -> Iterator[None]:
        """Count a watcher of the run while the context lasts."""
        with self._lock:
            self._watched[run_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._watched[run_id] -= 1
                if not self._watched[run_id]:
                    del self._watched[run_id]
                    self._tails.pop(run_id, None)
                    self._runs.pop(run_id, None)

    def look(self, run_id: str, last: int) -> tuple[RunRow, tuple[RunEvent, ...]]:
        """The run as it is, and its events after ``last``, which were there when it was so."""
        with self._lock:
            tail = self._tails.get(run_id)
            if tail is not None and time.monotonic() - self._looked >= FRESH:
                self._look()
            if tail is not None and last >= tail.after:
                return self._runs[run_id], tuple(e for e in tail.events if e.id > last)
        run = reading.get(self._database, run_id)
        events = reading.events_after(self._database, run_id, last)
        newest = reading.newest_event(self._database, run_id)
        with self._lock:
            if run_id in self._watched and run_id not in self._tails:
                # A watcher that lacks an event up to this one reads the database again.
                self._tails[run_id] = _Tail(newest)
                self._runs[run_id] = run
                self._newest = max(self._newest, newest)
        return run, events

    def _look(self) -> None:
        """Runs before their events: what a run says last is among its events then."""
        watched = sorted(self._tails)
        self._runs |= reading.several(self._database, watched)
        for event in reading.events_of(self._database, watched, self._newest - LATE):
            self._tails[event.run_id].add(event)
            self._newest = max(self._newest, event.id)
        self._looked = time.monotonic()
