"""Mornings: a night that has ended is summed up once, and its summary sent to every target.

A summary is sent at least once: who sends says so before and after, and should it be killed in
between, or the target not answer, it is sent again later. One that comes twice is a nuisance; one
that never comes looks like a night without problems.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import structlog
from sqlalchemy import ColumnElement, and_, func, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite

from sandbox.core.errors import RequestError
from sandbox.core.records import Verdict
from workers.database import Database
from workers.database.schema import night_guests, nights, notices, runs
from workers.database.states import ENDED, RunState
from workers.notifications import delivery
from workers.notifications.delivery import PAUSES
from workers.schedule.due_times import night_id
from workers.schedule.night_summary import (
    NO_ANSWER,
    GuestNight,
    Night,
    fleet_headline,
    fleet_text,
    headline,
)
from workers.settings import ServiceSettings

TOGETHER = 3 * 3600.0  # seconds that a summary waits for other nights, counted from their begin
_SAME_NIGHT = 43200.0  # seconds between two due times
_NEWS = 86400.0  # seconds; what was closed before that a new target is not told
_COMPARED = 90 * 86400.0  # seconds; a night before that is not "the night before"
_Key = tuple[str, float, str]  # schedule, due time, target
log = structlog.get_logger("sandbox.mornings")


def close(database: Database, moment: float | None = None) -> None:
    """Sum up the nights whose runs have all ended, or whose deadline has passed."""
    moment = database.now() if moment is None else moment
    open_runs = (
        select(func.count())
        .select_from(night_guests.join(runs, runs.c.id == night_guests.c.run_id))
        .where(
            night_guests.c.schedule == nights.c.schedule,
            night_guests.c.due == nights.c.due,
            runs.c.state.not_in(ENDED),
        )
        .scalar_subquery()
    )
    query = select(nights.c.schedule, nights.c.due).where(
        nights.c.summarised.is_(None), (nights.c.deadline <= moment) | (open_runs == 0)
    )
    with database.read() as connection:
        ended = connection.execute(query).all()
    for schedule, due in ended:
        _close(database, schedule, due, moment)


def _close(database: Database, schedule: str, due: float, moment: float) -> None:
    with database.write() as connection:
        mine = connection.execute(
            update(nights)
            .where(nights.c.schedule == schedule, nights.c.due == due)
            .where(nights.c.summarised.is_(None))
            .values(summarised=moment)
        )
        if not mine.rowcount:
            return  # another tick was first
    night = read_night(database, schedule, due)
    log.info("night summed up", night=night.id, summary=headline(night))


def send(database: Database, settings: ServiceSettings, moment: float | None = None) -> None:
    """Send the summaries that wait, those of all schedules in one message. A target that does not
    answer is tried again later."""
    moment = database.now() if moment is None else moment
    if not settings.notify:
        return  # another worker's
    _address(database, settings, moment)
    waiting = and_(
        notices.c.sent.is_(None), notices.c.try_at <= moment, notices.c.tries <= len(PAUSES)
    )
    columns = (notices.c.schedule, notices.c.due, notices.c.tries)
    for url in settings.notify:
        target = _target(url)
        query = select(*columns).where(waiting, notices.c.target == target)
        with database.read() as connection:
            found = connection.execute(query.order_by(notices.c.due, notices.c.schedule)).all()
        fresh = all(tries == 0 for *_night, tries in found)
        if fresh and found and _others_are_at_it(database, [due for _, due, _ in found], moment):
            continue
        taken = [
            (key, tries + 1)
            for schedule, due, tries in found
            if _take(database, key := (schedule, due, target), tries, moment)
        ]
        if taken:
            _send(database, url, taken, moment)


def _address(database: Database, settings: ServiceSettings, moment: float) -> None:
    """Add our own targets: the worker that closed a night may have others, or none."""
    closed = nights.c.silent == 0, nights.c.summarised > moment - _NEWS
    with database.write() as connection:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        for url in settings.notify:
            target = literal(_target(url))
            night = select(nights.c.schedule, nights.c.due, target, literal(moment)).where(*closed)
            names = ["schedule", "due", "target", "try_at"]
            told = dialect.insert(notices).from_select(names, night)
            connection.execute(told.on_conflict_do_nothing())


def _others_are_at_it(database: Database, dues: Sequence[float], moment: float) -> bool:
    """Whether another schedule's part of the same night ends soon enough for one message."""
    under_way = and_(
        nights.c.summarised.is_(None),
        nights.c.noticed > moment - TOGETHER,
        nights.c.due.between(min(dues) - _SAME_NIGHT, max(dues) + _SAME_NIGHT),
    )
    with database.read() as connection:
        return (
            connection.execute(select(nights.c.due).where(under_way).limit(1)).first() is not None
        )


def _send(database: Database, url: str, taken: list[tuple[_Key, int]], moment: float) -> None:
    fleet = [read_night(database, schedule, due) for (schedule, due, _target), _tried in taken]
    facts = {"nights": [night.id for night in fleet], "to": delivery.kind_of(url)}
    problem = delivery.send(url, fleet_headline(fleet), fleet_text(fleet))
    if problem:
        tried = min(tried for _key, tried in taken)
        left = len(PAUSES) + 1 - tried
        level = log.warning if left else log.error
        level("summary not sent", **facts, problem=problem, tried=tried, tries_left=left)
        return
    with database.write() as connection:
        for key, _tried in taken:
            connection.execute(update(notices).where(*_is(key)).values(sent=moment))
    log.info("summary sent", **facts)


def _take(database: Database, key: _Key, tries: int, moment: float) -> bool:
    """Whether this try is ours; the next one comes later."""
    pause = PAUSES[min(tries, len(PAUSES) - 1)]
    with database.write() as connection:
        taken = connection.execute(
            update(notices)
            .where(*_is(key), notices.c.tries == tries, notices.c.sent.is_(None))
            .values(tries=tries + 1, try_at=moment + pause)
        )
    return bool(taken.rowcount)


def _is(key: _Key) -> tuple[ColumnElement[bool], ...]:
    return notices.c.schedule == key[0], notices.c.due == key[1], notices.c.target == key[2]


def _target(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def read_night(database: Database, schedule: str, due: float) -> Night:
    """A night with all that is known of its guests now."""
    with database.read() as connection:
        row = connection.execute(
            select(nights).where(nights.c.schedule == schedule, nights.c.due == due)
        ).one()
        joined = night_guests.outerjoin(runs, runs.c.id == night_guests.c.run_id)
        listed = connection.execute(
            select(night_guests, runs.c.state, runs.c.verdict, runs.c.reason, runs.c.waiting)
            .select_from(joined)
            .where(night_guests.c.schedule == schedule, night_guests.c.due == due)
            .order_by(night_guests.c.guest, night_guests.c.host)
        ).all()
    before = _words_before(database, schedule, due)
    guests = tuple(
        GuestNight(
            host=guest.host,
            guest=guest.guest,
            run_id=guest.run_id,
            state=guest.state or "",
            verdict=Verdict(guest.verdict) if guest.verdict else None,
            reason=guest.problem or guest.reason or _waits_for(guest.state, guest.waiting),
            before=before.get((guest.host, guest.guest)),
        )
        for guest in listed
    )
    return Night(
        schedule=schedule,
        due=due,
        zone=row.zone,
        outcome=row.outcome,
        noticed=row.noticed,
        guests=guests,
        missed=_missed_before(database, schedule, due),
        closed=row.summarised is not None,
    )


def _waits_for(state: str | None, waiting: str | None) -> str:
    return (waiting or "") if state == RunState.QUEUED else ""


def _words_before(database: Database, schedule: str, due: float) -> dict[tuple[str, str], str]:
    """What each guest's last night before this one said, by host and guest."""
    earlier = (
        select(night_guests.c.host, night_guests.c.guest, func.max(night_guests.c.due).label("due"))
        .where(night_guests.c.schedule == schedule)
        .where(night_guests.c.due < due, night_guests.c.due > due - _COMPARED)
        .group_by(night_guests.c.host, night_guests.c.guest)
        .subquery()
    )
    same = and_(
        night_guests.c.schedule == schedule,
        night_guests.c.due == earlier.c.due,
        night_guests.c.host == earlier.c.host,
        night_guests.c.guest == earlier.c.guest,
    )
    query = select(night_guests.c.host, night_guests.c.guest, runs.c.verdict).select_from(
        night_guests.join(earlier, same).outerjoin(runs, runs.c.id == night_guests.c.run_id)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    return {(row.host, row.guest): row.verdict or NO_ANSWER for row in rows}


def _missed_before(database: Database, schedule: str, due: float) -> tuple[float, ...]:
    """Due times between this night and the last one that was run."""
    last_run = (
        select(func.coalesce(func.max(nights.c.due), 0.0))
        .where(nights.c.schedule == schedule, nights.c.due < due, nights.c.outcome == "run")
        .scalar_subquery()
    )
    query = (
        select(nights.c.due)
        .where(nights.c.schedule == schedule, nights.c.due < due, nights.c.due > last_run)
        .order_by(nights.c.due)
    )
    with database.read() as connection:
        return tuple(connection.execute(query).scalars())


def find_night(database: Database, words: str | None) -> Night:
    """A night by its id, a schedule's last one by its name, or the last of all."""
    query = select(nights.c.schedule, nights.c.due).order_by(nights.c.due.desc()).limit(1)
    name, _at, _when = (words or "").rpartition("@")
    if words is not None:
        query = query.where(nights.c.schedule.in_([words, name])).limit(None)
    with database.read() as connection:
        found = connection.execute(query).all()
    for schedule, due in found:
        if words in (None, schedule, night_id(schedule, due)):
            return read_night(database, schedule, due)
    if words is None:
        raise RequestError("there was no night yet", "`sandbox schedule` says when one is due")
    known = ", ".join(night_id(*row) for row in found[:3])
    hint = f"the last ones: {known}" if known else "`sandbox schedule` lists the schedules"
    raise RequestError(f"no night {words!r}", hint)


def last_nights(database: Database) -> dict[str, Night]:
    """The last night of each schedule."""
    query = select(nights.c.schedule, func.max(nights.c.due)).group_by(nights.c.schedule)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return {schedule: read_night(database, schedule, due) for schedule, due in rows}


def unsent(database: Database, night: Night) -> int:
    """To how many targets its summary has not been sent."""
    query = (
        select(func.count())
        .select_from(notices)
        .where(notices.c.schedule == night.schedule, notices.c.due == night.due)
        .where(notices.c.sent.is_(None))
    )
    with database.read() as connection:
        return int(connection.execute(query).scalar_one())
