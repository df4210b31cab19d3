"""Which host is next: the one with the most urgent run, then the one that waited longest.

A worker is woken for one host, and then does whatever is due on any of its hosts. So a message
that came while it was busy is no loss, a gate on one host goes before the night of another, and a
host with a thousand runs waiting gets its turn as often as one with a single run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field

from workers.database import Database
from workers.queue import reading
from workers.queue.reading import DueHost

FRESH = 1.0  # seconds that a look at the queue is good for


@dataclass
class Turns:
    """When each of a worker's hosts was served last: in memory that its children share."""

    hosts: Sequence[str]
    served: MutableSequence[float]  # one for each host
    _places: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._places = {host: place for place, host in enumerate(self.hosts)}

    def take(self, host: str) -> None:
        place = self._places.get(host)
        if place is not None:
            self.served[place] = time.monotonic()

    def in_order(self, due: Sequence[DueHost]) -> list[str]:
        """The hosts of ours, who is first first."""
        ours = [one for one in due if one.host in self._places]
        ours.sort(key=lambda one: (one.priority, self.served[self._places[one.host]]))
        return [one.host for one in ours]


class Round:
    """The hosts to try one after another; looked up again when that is a while ago."""

    def __init__(
        self,
        database: Database,
        turns: Turns,
        owner: str,
        slots: int,
        parallel: Callable[[str], int],
    ) -> None:
        self._database = database
        self._turns = turns
        self._owner = owner
        self._slots = slots
        self._parallel = parallel
        self._left: list[str] = []
        self._looked = -FRESH

    def next_host(self) -> str | None:
        """None when nothing is due, or this worker is full: by a look that has just been taken."""
        if not self._left or time.monotonic() - self._looked > FRESH:
            self.look()
        if not self._left:
            return None
        host = self._left.pop(0)
        self._turns.take(host)
        return host

    def look(self) -> list[str]:
        """Hosts with a run that is due and room for it."""
        self._looked = time.monotonic()
        due = reading.heads(self._database, self._owner, self._slots)
        with_room = [one for one in due if one.held < self._parallel(one.host)]
        self._left = self._turns.in_order(with_room)
        return self._left
