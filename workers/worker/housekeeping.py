"""Periodic tasks: reclaim the runs of lost workers, and wake workers whose message was lost.

Several workers may do a step at the same time, and repeat it: the database decides who did it.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from workers.artifacts import retention
from workers.database import Database
from workers.database.clock import now
from workers.notifications import verdict_changes
from workers.queue import reading
from workers.queue.counters import TICKED, count, note_now
from workers.queue.presence import present
from workers.queue.reclaim import reaping_wanted, sweep
from workers.schedule import enqueue, night_reports
from workers.settings import ServiceSettings

REAP_EVERY = 600.0  # seconds
TELL_EVERY = 3600.0  # seconds: of a schedule that is wrong
log = structlog.get_logger("sandbox.housekeeping")


def tick(
    database: Database,
    settings: ServiceSettings,
    announce: Callable[[str, int], None],
    reap: Callable[[str], None],
) -> None:
    """All of it. One step that fails does not keep the others from being taken."""
    steps: tuple[Callable[[], None], ...] = (
        lambda: _sweep(database),
        lambda: _reap_after_losses(database, reap),
        lambda: _begin_nights(database, settings),
        lambda: night_reports.close(database),
        lambda: night_reports.send(database, settings),
        lambda: verdict_changes.look(database, settings),
        lambda: verdict_changes.send(database, settings),
        lambda: _announce(database, announce),
        lambda: _reap_now_and_then(database, reap),
        lambda: _expire_now_and_then(database, settings),
        lambda: _note_tick(database),
    )
    for step in steps:
        try:
            step()
        except Exception as problem:  # the database's, and the many kinds of the broker
            log.warning("a step of the housekeeping failed", problem=str(problem))


def _sweep(database: Database) -> None:
    swept = sweep(database)
    for run_id in (*swept.queued, *swept.given_up, *swept.cancelled):
        run = reading.get(database, run_id)
        log.warning("lease lost", run=run_id, host=run.host, state=run.state.value)


def _reap_after_losses(database: Database, reap: Callable[[str], None]) -> None:
    """Until a worker of the host has done it: a message can be lost."""
    for host in reaping_wanted(database):
        reap(host)


def _begin_nights(database: Database, settings: ServiceSettings) -> None:
    problems = enqueue.begin(database, settings)
    if problems and is_turn(database, "told_of_schedules", TELL_EVERY):
        for name, problem in problems.items():
            log.error("schedule cannot be followed", schedule=name, problem=problem)


def _announce(database: Database, announce: Callable[[str, int], None]) -> None:
    """Wake the workers of hosts with runs that could start; not those that are full, which go on
    by themselves. A message too many costs little, and one too few is sent by the next tick."""
    due = reading.due_hosts(database)
    if not due:
        return
    held = reading.held_by_owner(database)
    living = [one for one in present(database) if not one.gone]
    served = {host for one in living for host in one.hosts}
    free = {host for one in living if held.get(one.name, 0) < one.slots for host in one.hosts}
    for host, waiting in due.items():
        if host in free or host not in served:
            announce(host, min(waiting, 2))


def _reap_now_and_then(database: Database, reap: Callable[[str], None]) -> None:
    """Reap each host of living workers every ten minutes, independent of which worker ticks."""
    for host in sorted({host for one in present(database) if not one.gone for host in one.hosts}):
        if is_turn(database, f"reaped_at {host}", REAP_EVERY):
            reap(host)


def _expire_now_and_then(database: Database, settings: ServiceSettings) -> None:
    if is_turn(database, "expired_at", retention.EVERY):
        retention.expire(database, settings)


def _note_tick(database: Database) -> None:
    """For `sandbox doctor` and metrics."""
    with database.write() as connection:
        note_now(connection, TICKED)


def is_turn(database: Database, name: str, seconds: float) -> bool:
    """Whether this was not done in the last so many seconds; it is counted as done then."""
    from sqlalchemy import update

    from workers.database.schema import counters

    with database.write() as connection:
        count(connection, name, 0.0)
        done = connection.execute(
            update(counters)
            .where(counters.c.name == name, counters.c.value < now() - seconds)
            .values(value=now())
        )
    return bool(done.rowcount)


def count_reaped(database: Database, things: int) -> None:
    with database.write() as connection:
        count(connection, "things_reaped", things)
