"""What expires: artifacts by age and size; events, results of checks and keys of requests by age.
Verdicts and their evidence never do.

Here is what all share, the place for artifacts and the database; a worker's own folders are in
``worker_folders``. Everything is done in bounded portions: what is left is the next turn's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Row, and_, delete, func, literal_column, select, update

from workers.artifacts.places import Place, files_of, place_for
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import attempts, events, runs
from workers.queue import check_results, idempotency
from workers.queue.counters import count
from workers.queue.values import NotNow
from workers.settings import ServiceSettings

EVERY = 600.0  # seconds
DAY = 86400.0
STORED, EXPIRED = "stored", "expired"
MOST_REMOVED, MOST_PRUNED = 200, 20_000  # a turn
_PORTION = 1000  # events a transaction
log = structlog.get_logger("sandbox.retention")


def expire(database: Database, settings: ServiceSettings) -> None:
    """One turn, by the worker that ticks: expire stored artifacts and rows of the database."""
    place = place_for(settings)
    if place is not None:
        removed = expire_stored(database, place, settings)
        if removed:
            log.info("artifacts expired", place=place.url, records=removed)
    pruned = prune_events(database, settings.keep_days)
    if pruned:
        log.info("events pruned", events=pruned)
    check_results.forget(database, settings.keep_days * DAY, MOST_PRUNED)
    idempotency.forget(database)


def expire_stored(database: Database, place: Place, settings: ServiceSettings) -> tuple[str, ...]:
    """Remove from the place what is too old, then the oldest of what is too much; names them."""
    removed = []
    for row in _too_much(database, settings):
        place.remove(row.folder)
        mark(database, row, EXPIRED)
        removed.append(str(row.folder))
    return tuple(removed)


def _too_much(database: Database, settings: ServiceSettings) -> Iterator[Row[Any]]:
    kept = attempts.c.artifacts == literal_column(f"'{STORED}'")  # the index is of just these
    oldest = (
        select(attempts, too_old(settings.keep_days).label("old"))
        .where(kept)
        .order_by(attempts.c.ended)
        .limit(MOST_REMOVED)
    )
    with database.read() as connection:
        rows = connection.execute(oldest).all()
        total = connection.execute(select(func.coalesce(func.sum(attempts.c.bytes), 0)).where(kept))
        beyond = int(total.scalar_one()) - settings.keep_bytes if settings.keep_bytes else 0
    for row in rows:
        if not row.old and beyond <= 0:
            return
        beyond -= row.bytes
        yield row


def too_old(keep_days: float) -> ColumnElement[bool]:
    return attempts.c.ended < now() - keep_days * DAY


def mark(database: Database, row: Row[Any], what: str, size: int = 0) -> None:
    """Write down where an attempt's artifacts are. Any worker may write the row."""
    with database.write() as connection:
        connection.execute(
            update(attempts)
            .where(attempts.c.run_id == row.run_id, attempts.c.fence == row.fence)
            .values(artifacts=what, bytes=size)
        )
        if what == EXPIRED:
            count(connection, "artifacts_expired")


def prune_events(database: Database, keep_days: float) -> int:
    """Remove the events of runs that ended long ago; how many."""
    pruned, last = 0, 0
    while pruned < MOST_PRUNED:
        oldest = (
            select(
                events.c.id,
                (events.c.at < now() - keep_days * DAY).label("old"),
                and_(runs.c.ended.is_not(None), runs.c.ended < now() - keep_days * DAY).label(
                    "over"
                ),
            )
            .join(runs, runs.c.id == events.c.run_id)
            .where(events.c.id > last)
            .order_by(events.c.id)
            .limit(_PORTION)
        )
        with database.read() as connection:
            rows = connection.execute(oldest).all()
        gone = [row.id for row in rows if row.over]
        if gone:
            with database.write() as connection:
                connection.execute(delete(events).where(events.c.id.in_(gone)))
            pruned += len(gone)
        # Ids grow with time: the first young one is followed by young ones.
        if len(rows) < _PORTION or not rows[-1].old:
            return pruned
        last = rows[-1].id
    return pruned


def require_room(settings: ServiceSettings) -> None:
    """Raises :class:`NotNow` when this machine's disk, or the artifacts' share of it, is full."""
    place = settings.sandbox.state
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < settings.keep_free:
        raise NotNow(
            f"{place} has {free >> 20} MiB free, a run needs {settings.keep_free >> 20} MiB",
            "free some, or set SANDBOX_SERVICE_KEEP_FREE",
        )
    if settings.keep_bytes:
        used = sum(one.size for one in files_of(settings.sandbox.runs))
        if used > settings.keep_bytes:
            raise NotNow(
                f"artifacts take {used >> 20} MiB of {settings.keep_bytes >> 20} MiB",
                "sandbox rm --record RUN removes some, or set SANDBOX_SERVICE_KEEP_BYTES",
            )
