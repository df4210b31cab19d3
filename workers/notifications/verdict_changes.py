"""Changes: every target is notified of a run whose verdict differs from the one before.

As with the summaries of nights, delivery is at least once: a row is deleted after its message was
sent, so a worker that is killed while sending leaves it to the next one. The row was written with
the verdict; whether the verdict is a change is decided here, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import structlog
from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, select, tuple_, update

from sandbox.core.clean_text import one_line
from sandbox.core.records import Verdict
from sandbox.report.view import instant
from workers.database import Database
from workers.database.schema import news, night_guests, runs
from workers.notifications import delivery
from workers.notifications.delivery import PAUSES
from workers.queue import reading
from workers.queue.values import RunRow
from workers.queue.verdict_outbox import UNREAD
from workers.settings import ServiceSettings

MOST = 200  # that one tick looks at
MOST_SENT = 20  # and sends: a target that is slow must not hold up all else
log = structlog.get_logger("sandbox.changes")


@dataclass(frozen=True)
class Before:
    """The verdict before, of the same wish."""

    verdict: Verdict
    ended: float


def look(database: Database, settings: ServiceSettings) -> None:
    """Decide of what is news whether people are told. Each is looked at by one."""
    query = select(news.c.run_id).where(news.c.target == UNREAD).order_by(news.c.try_at)
    with database.read() as connection:
        unread = list(connection.execute(query.limit(MOST)).scalars())
    if unread and (not settings.notify or settings.notify_on == "never"):
        with database.write() as connection:
            connection.execute(delete(news).where(news.c.target == UNREAD))
        return
    for run_id in unread:
        _look(database, settings, run_id)


def _look(database: Database, settings: ServiceSettings, run_id: str) -> None:
    run = reading.get(database, run_id)
    told = _is_told(database, settings, run)
    with database.write() as connection:
        mine = connection.execute(delete(news).where(*_is(run_id, UNREAD)))
        if not mine.rowcount or not told:
            return  # another tick was first; or it is nothing new
        for target in sorted(set(map(_target, settings.notify))):
            values = {"run_id": run_id, "target": target, "try_at": run.ended or 0.0}
            connection.execute(insert(news).values(values))


def _is_told(database: Database, settings: ServiceSettings, run: RunRow) -> bool:
    of_a_night = select(exists().where(night_guests.c.run_id == run.id))
    with database.read() as connection:
        if connection.execute(of_a_night).scalar():
            return False  # the night joined it, and sums it up
    if settings.notify_on == "every":
        return True
    before = verdict_before(database, run)
    return before is not None and before.verdict is not run.verdict


def verdict_before(database: Database, run: RunRow) -> Before | None:
    """The newest one of the same scenario, guest, host and upgrade when this one came."""
    said = func.coalesce(runs.c.request["upgrade"].as_string(), "")
    query = (
        select(runs.c.verdict, runs.c.ended)
        .where(runs.c.host == run.host, runs.c.guest == run.guest)
        .where(runs.c.scenario == run.scenario, said == run.request.get("upgrade", ""))
        .where(runs.c.verdict.is_not(None), runs.c.id != run.id)
        .where(tuple_(runs.c.ended, runs.c.id) < tuple_(run.ended, run.id))
        .order_by(runs.c.ended.desc(), runs.c.id.desc())
        .limit(1)
    )
    with database.read() as connection:
        row = connection.execute(query).first()
    return None if row is None else Before(Verdict(row.verdict), row.ended)


def send(database: Database, settings: ServiceSettings, moment: float | None = None) -> None:
    """Send what waits. A target that does not answer is tried again later."""
    moment = database.now() if moment is None else moment
    urls = {_target(url): url for url in settings.notify}
    for run_id, target, tries in _waiting(database, urls, moment):
        if _take(database, run_id, target, tries, moment):
            _send(database, urls[target], run_id, target, tries + 1)


def _waiting(
    database: Database, targets: Iterable[str], moment: float
) -> list[tuple[str, str, int]]:
    waiting = and_(
        news.c.target.in_(list(targets)), news.c.try_at <= moment, news.c.tries <= len(PAUSES)
    )
    query = select(news.c.run_id, news.c.target, news.c.tries).where(waiting)
    with database.read() as connection:
        rows = connection.execute(query.order_by(news.c.try_at).limit(MOST_SENT)).all()
    return [(row.run_id, row.target, row.tries) for row in rows]


def _send(database: Database, url: str, run_id: str, target: str, tried: int) -> None:
    run = reading.get(database, run_id)
    before = verdict_before(database, run)
    facts = {"run": run_id, "to": delivery.kind_of(url)}
    problem = delivery.send(url, headline(run, before), text(run, before))
    if problem:
        left = len(PAUSES) + 1 - tried
        level = log.warning if left else log.error
        level("news not sent", **facts, problem=problem, tried=tried, tries_left=left)
        return
    with database.write() as connection:
        connection.execute(delete(news).where(*_is(run_id, target)))
    log.info("news sent", **facts)


def _take(database: Database, run_id: str, target: str, tries: int, moment: float) -> bool:
    """Whether this try is ours; the next one comes later."""
    pause = PAUSES[min(tries, len(PAUSES) - 1)]
    with database.write() as connection:
        taken = connection.execute(
            update(news)
            .where(*_is(run_id, target), news.c.tries == tries)
            .values(tries=tries + 1, try_at=moment + pause)
        )
    return bool(taken.rowcount)


def _is(run_id: str, target: str) -> tuple[ColumnElement[bool], ...]:
    return news.c.run_id == run_id, news.c.target == target


def _target(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def headline(run: RunRow, before: Before | None) -> str:
    """One line, fit for a title."""
    said = run.verdict.value if run.verdict else run.state.value
    changed = f"{before.verdict.value} → {said}" if before else said
    return delivery.inert(f"{one_line(run.guest, 80)} on {run.host}: {changed} ({run.scenario})")


def text(run: RunRow, before: Before | None) -> str:
    may = "may be upgraded" if run.verdict is Verdict.PASS else "may not be upgraded"
    upgrade = run.request.get("upgrade", "")
    lines = [
        f"{one_line(run.guest, 80)} on {run.host} {may}: {one_line(run.reason)}",
        "",
        f"scenario: {run.scenario}{f', upgrade: {one_line(upgrade, 200)}' if upgrade else ''}",
        f"now:      {run.verdict.value if run.verdict else ''}, {instant(run.ended or 0.0)}",
    ]
    if before is not None:
        lines.append(f"before:   {before.verdict.value}, {instant(before.ended)}")
    lines.append(f"run:      {run.id}, asked by {one_line(run.origin, 100)}")
    return "\n".join(lines) + "\n"
