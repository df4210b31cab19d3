"""When nights are due, what becomes of them, and how a night's rehearsals are spread. Pure.

Instants are Unix time. An hour that a time zone skips or repeats is treated as Debian's cron does:
what is due at a time of day that does not exist comes right after the gap, and what is due at one
that comes twice comes the first time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Literal

from cronsim import CronSim

LOOK_BACK = 14 * 86400.0  # seconds; older due times are ignored
MOST_MISSED = 50  # due times that are noted after a long time without the service
Outcome = Literal["run", "missed"]


@dataclass(frozen=True)
class Due:
    """A due time, and what is done about it."""

    at: float
    outcome: Outcome


def due_times(cron: str, zone: tzinfo, after: float, until: float) -> list[float]:
    """All due times later than ``after``, up to ``until`` and with it, in order."""
    found: set[float] = set()
    # Around a change of the clocks cron's own steps may go back, and depend on where it began:
    # so it begins at a noon before, at which no clocks are changed, and goes on an hour too far.
    for step in CronSim(cron, _noon_before(after, zone)):
        at = step.timestamp()
        if at > until + 7200:
            break
        if after < at <= until:
            found.add(at)
    return sorted(found)


def next_due(cron: str, zone: tzinfo, after: float) -> float | None:
    """The first due time later than ``after``."""
    later: list[float] = []
    for step in CronSim(cron, _noon_before(after, zone)):
        at = step.timestamp()
        if later and at > later[0] + 7200:
            break
        if at > after:
            later.append(at)
    return min(later, default=None)


def _noon_before(moment: float, zone: tzinfo) -> datetime:
    day = datetime.fromtimestamp(moment, zone).date() - timedelta(days=1)
    return datetime.combine(day, time(12), UTC if zone is UTC else zone)


def plan(
    dues: Sequence[float], moment: float, tolerance: float, missed: Literal["run", "report"]
) -> list[Due]:
    """Decide what is done about new due times. Only the last one is run: it shows all that an
    earlier one would have shown."""
    dues = dues[-MOST_MISSED:]
    late = bool(dues) and moment - dues[-1] > tolerance
    last: Outcome = "missed" if late and missed == "report" else "run"
    return [Due(at, last if at == dues[-1] else "missed") for at in dues]


def spread(guests: Iterable[tuple[str, str]], window: float) -> Mapping[tuple[str, str], float]:
    """When each guest, a pair of its host and its name, begins: seconds into the window.

    A host's guests come one after another over the whole window, hosts among each other; always
    the same for the same guests, so that a guest's nights can be compared.
    """
    by_host: dict[str, list[tuple[str, str]]] = {}
    for guest in sorted(set(guests), key=_shuffled):
        by_host.setdefault(guest[0], []).append(guest)
    begins = {}
    for position, host in enumerate(sorted(by_host, key=lambda name: _shuffled((name, "")))):
        shift = position / len(by_host)
        listed = by_host[host]
        for number, guest in enumerate(listed):
            begins[guest] = window * (number + shift) / len(listed)
    return begins


def _shuffled(guest: tuple[str, str]) -> bytes:
    """An order that has nothing to do with the names: web01 to web99 are not one after another."""
    return hashlib.sha256("\0".join(guest).encode()).digest()


def delay(begin: float, due: float, moment: float, tolerance: float) -> float:
    """Seconds from now until a guest begins. A night on time keeps to its window, also when it
    was noticed a little late; one that is caught up with gets a window of its own."""
    passed = moment - due
    return max(0.0, begin - passed) if passed <= tolerance else begin


def night_id(schedule: str, due: float) -> str:
    """``web01-nightly@2026-11-25T01:00Z``."""
    return f"{schedule}@{datetime.fromtimestamp(due, UTC):%Y-%m-%dT%H:%MZ}"
