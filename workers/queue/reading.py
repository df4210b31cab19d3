"""For looking at the queue: takes no locks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    ScalarSelect,
    Select,
    Text,
    bindparam,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from sandbox.core.errors import RequestError
from sandbox.core.records import Verdict
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import events, runs, state_in
from workers.database.states import HELD, RunState
from workers.queue.claimable import is_due
from workers.queue.values import NoSuchRun, RunEvent, RunRow

_PORTION = 500  # ids of a statement: databases limit its parameters
_COLUMNS = (
    runs.c.id,
    runs.c.scenario,
    runs.c.guest,
    runs.c.host,
    runs.c.state,
    runs.c.priority,
    runs.c.submitted,
    runs.c.not_before,
    runs.c.started,
    runs.c.ended,
    runs.c.attempts,
    runs.c.most_attempts,
    runs.c.fence,
    runs.c.owner,
    runs.c.lease_until,
    runs.c.phase,
    runs.c.waiting,
    runs.c.origin,
    runs.c.night,
    runs.c.verdict,
    runs.c.reason,
    runs.c.request,
)


def get(database: Database, run_id: str) -> RunRow:
    """One run; raises :class:`NoSuchRun` when there is none of that id."""
    with database.read() as connection:
        row = connection.execute(select(*_COLUMNS).where(runs.c.id == run_id)).first()
    if row is None:
        raise NoSuchRun(run_id)
    return _row(row)


def several(database: Database, run_ids: Sequence[str]) -> dict[str, RunRow]:
    """Those that there are of some runs, by their ids."""
    found: dict[str, RunRow] = {}
    with database.read() as connection:
        for start in range(0, len(run_ids), _PORTION):
            portion = runs.c.id.in_(run_ids[start : start + _PORTION])
            rows = connection.execute(select(*_COLUMNS).where(portion))
            found |= {row.id: _row(row) for row in rows}
    return found


def find(database: Database, text: str) -> RunRow:
    """A run by its id, a unique beginning or end of it, or ``latest``."""
    with database.read() as connection:
        if text == "latest":
            query = select(runs.c.id).order_by(runs.c.submitted.desc(), runs.c.id.desc()).limit(1)
        else:
            escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            patterns = (f"{escaped}%", f"%{escaped}")
            fits = or_(*(runs.c.id.like(pattern, escape="\\") for pattern in patterns))
            query = select(runs.c.id).where(fits).limit(4)
        found = list(connection.execute(query).scalars()) if text else []
    if text in found:
        return get(database, text)
    if len(found) == 1:
        return get(database, found[0])
    if found:
        raise RequestError(f"{text!r} fits several runs", f"say more of it: {', '.join(found[:3])}")
    raise NoSuchRun(text)


def recent(
    database: Database,
    limit: int = 20,
    *,
    states: Sequence[RunState] = (),
    guest: str | None = None,
    host: str | None = None,
    night: str | None = None,
    scenario: str | None = None,
    verdict: Verdict | None = None,
    before: tuple[float, str] | None = None,
) -> tuple[RunRow, ...]:
    """The newest runs, newest first; ``before``: those after one with this time and id."""
    query = select(*_COLUMNS).order_by(runs.c.submitted.desc(), runs.c.id.desc()).limit(limit)
    if states:
        query = query.where(runs.c.state.in_(states))
    for column, value in (
        (runs.c.guest, guest),
        (runs.c.host, host),
        (runs.c.night, night),
        (runs.c.scenario, scenario),
        (runs.c.verdict, verdict),
    ):
        if value is not None:
            query = query.where(column == value)
    if before is not None:
        query = query.where(tuple_(runs.c.submitted, runs.c.id) < tuple_(*map(literal, before)))
    with database.read() as connection:
        return tuple(_row(row) for row in connection.execute(query))


def newest_verdict(
    database: Database, scenario: str, guest: str, host: str, upgrade: str = ""
) -> RunRow | None:
    """The last run with a verdict of just this wish: ``upgrade`` is what it said otherwise."""
    said = func.coalesce(runs.c.request["upgrade"].as_string(), "")
    query = (
        select(*_COLUMNS)
        .where(runs.c.host == host, runs.c.guest == guest, runs.c.scenario == scenario)
        .where(runs.c.verdict.is_not(None), said == upgrade)
        .order_by(runs.c.submitted.desc(), runs.c.id.desc())
        .limit(1)
    )
    with database.read() as connection:
        row = connection.execute(query).first()
    return None if row is None else _row(row)


def events_after(
    database: Database, run_id: str, last: int = 0, limit: int = 1000
) -> tuple[RunEvent, ...]:
    """The events of a run after the one with id ``last``, oldest first."""
    query = (
        _EVENTS.where(events.c.run_id == run_id, events.c.id > last)
        .order_by(events.c.id)
        .limit(limit)
    )
    with database.read() as connection:
        return tuple(RunEvent(*row) for row in connection.execute(query))


def events_of(database: Database, ids: Sequence[str], last: int) -> tuple[RunEvent, ...]:
    """The events of several runs after the one with id ``last``, oldest first."""
    query = _EVENTS.where(events.c.run_id.in_(ids), events.c.id > last)
    with database.read() as connection:
        return tuple(RunEvent(*row) for row in connection.execute(query.order_by(events.c.id)))


def newest_event(database: Database, run_id: str) -> int:
    """The id of a run's last event; 0 without one."""
    query = select(func.max(events.c.id)).where(events.c.run_id == run_id)
    with database.read() as connection:
        return int(connection.execute(query).scalar() or 0)


def last_events(
    database: Database, run_id: str, limit: int, kinds: Sequence[str] = ()
) -> tuple[RunEvent, ...]:
    """The newest events of a run, of these kinds or of all, oldest first."""
    query = _EVENTS.where(events.c.run_id == run_id).order_by(events.c.id.desc()).limit(limit)
    if kinds:
        query = query.where(events.c.kind.in_(kinds))
    with database.read() as connection:
        return tuple(RunEvent(*row) for row in reversed(connection.execute(query).all()))


def due_hosts(database: Database) -> dict[str, int]:
    """Hosts with runs that could start now, with how many."""
    query = (
        select(runs.c.host, func.count().label("due"))
        .where(state_in(runs, RunState.QUEUED), runs.c.not_before <= now())
        .group_by(runs.c.host)
    )
    with database.read() as connection:
        return {row.host: int(row.due) for row in connection.execute(query)}


def ahead(database: Database, run: RunRow) -> int:
    """How many runs of its host are before a queued one."""
    query = (
        select(func.count())
        .select_from(runs)
        .where(state_in(runs, RunState.QUEUED), runs.c.host == run.host)
        .where(
            tuple_(runs.c.priority, runs.c.submitted, runs.c.id)
            < tuple_(literal(run.priority), literal(run.submitted), literal(run.id))
        )
    )
    with database.read() as connection:
        return int(connection.execute(query).scalar_one())


def held_by_owner(database: Database) -> dict[str, int]:
    """How many runs each worker holds that holds any."""
    query = (
        select(runs.c.owner, func.count().label("held"))
        .where(state_in(runs, *HELD))
        .group_by(runs.c.owner)
    )
    with database.read() as connection:
        return {row.owner: int(row.held) for row in connection.execute(query)}


@dataclass(frozen=True)
class DueHost:
    """A host with a run that could start now: how urgent it is, and how many runs it has."""

    host: str
    priority: int
    held: int


def heads(database: Database, owner: str, slots: int) -> tuple[DueHost, ...]:
    """The next run of every host that has one; none when the owner has its ``slots`` already."""
    with database.read() as connection:
        rows = connection.execute(_HEADS, {"owner_is": owner, "slots_are": slots})
        return tuple(DueHost(*row) for row in rows if row.priority is not None)


def _held(column: ColumnElement[str], value: ColumnElement[str]) -> ScalarSelect[int]:
    count = select(func.count()).where(column == value, state_in(_OTHER, *HELD))
    return count.scalar_subquery()


def _heads() -> Select[*tuple[Any, ...]]:
    """A step for each host that has runs waiting, however many: not one for each run.

    No join: a planner that knows nothing of the table yet would read all of it.
    """
    first = select(func.min(runs.c.host).label("host")).where(state_in(runs, RunState.QUEUED))
    hosts = first.cte("hosts", recursive=True)
    following = select(func.min(_NEXT.c.host)).where(
        state_in(_NEXT, RunState.QUEUED), _NEXT.c.host > hosts.c.host
    )
    hosts = hosts.union_all(select(following.scalar_subquery()).where(hosts.c.host.is_not(None)))
    head = (
        select(_NEXT.c.priority)
        .where(_NEXT.c.host == hosts.c.host, *is_due(_NEXT))
        .order_by(_NEXT.c.priority)
        .limit(1)
        .scalar_subquery()
    )
    room = _held(_OTHER.c.owner, bindparam("owner_is", type_=Text)) < bindparam("slots_are")
    return select(hosts.c.host, head.label("priority"), _held(_OTHER.c.host, hosts.c.host)).where(
        hosts.c.host.is_not(None), room
    )


_NEXT, _OTHER = runs.alias("next_one"), runs.alias("another")
_HEADS = _heads()


_EVENTS = select(
    *(events.c.id, events.c.run_id, events.c.at, events.c.kind, events.c.text, events.c.percent)
)


def _row(row: Row[*tuple[Any, ...]]) -> RunRow:
    values = dict(row._mapping)
    values["state"] = RunState(values["state"])
    values["verdict"] = None if values["verdict"] is None else Verdict(values["verdict"])
    return RunRow(**values)
