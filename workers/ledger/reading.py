"""For looking at the queue: takes no locks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, func, or_, select

from sandbox.errors import RequestError
from sandbox.records import Verdict
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import events, runs, state_in
from workers.ledger.values import Event, RunRow
from workers.states import State

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
    """One run; raises :class:`RequestError` when there is none of that id."""
    with database.read() as connection:
        row = connection.execute(select(*_COLUMNS).where(runs.c.id == run_id)).first()
    if row is None:
        raise RequestError(f"no run {run_id!r}", "`sandbox status` lists those there are")
    return _row(row)


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
    raise RequestError(f"no run {text!r}", "`sandbox status` lists those there are")


def recent(
    database: Database,
    limit: int = 20,
    *,
    states: Sequence[State] = (),
    guest: str | None = None,
    host: str | None = None,
    night: str | None = None,
) -> tuple[RunRow, ...]:
    """The newest runs, newest first."""
    query = select(*_COLUMNS).order_by(runs.c.submitted.desc(), runs.c.id.desc()).limit(limit)
    if states:
        query = query.where(runs.c.state.in_(states))
    for column, value in ((runs.c.guest, guest), (runs.c.host, host), (runs.c.night, night)):
        if value is not None:
            query = query.where(column == value)
    with database.read() as connection:
        return tuple(_row(row) for row in connection.execute(query))


def events_after(
    database: Database, run_id: str, last: int = 0, limit: int = 1000
) -> tuple[Event, ...]:
    """The events of a run after the one with id ``last``, oldest first."""
    query = (
        select(events.c.id, events.c.run_id, events.c.at, events.c.kind, events.c.text)
        .add_columns(events.c.percent)
        .where(events.c.run_id == run_id, events.c.id > last)
        .order_by(events.c.id)
        .limit(limit)
    )
    with database.read() as connection:
        return tuple(Event(*row) for row in connection.execute(query))


def due_hosts(database: Database) -> dict[str, int]:
    """Hosts with runs that could start now, with how many."""
    query = (
        select(runs.c.host, func.count().label("due"))
        .where(state_in(runs, State.QUEUED), runs.c.not_before <= now())
        .group_by(runs.c.host)
    )
    with database.read() as connection:
        return {row.host: int(row.due) for row in connection.execute(query)}


def _row(row: Row[*tuple[Any, ...]]) -> RunRow:
    values = dict(row._mapping)
    values["state"] = State(values["state"])
    values["verdict"] = None if values["verdict"] is None else Verdict(values["verdict"])
    return RunRow(**values)
