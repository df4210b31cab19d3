"""Which of the waiting runs may be claimed: one condition for claims and for displays."""

from __future__ import annotations

from sqlalchemy import ColumnElement, FromClause, exists

from workers.database.clock import now
from workers.database.schema import runs, state_in
from workers.database.states import HELD, Change, sources

_OTHER = runs.alias("other")


def is_due(table: FromClause) -> tuple[ColumnElement[bool], ...]:
    """May be claimed now: its time has come, and its guest is not being rehearsed."""
    busy = exists().where(
        _OTHER.c.host == table.c.host, _OTHER.c.guest == table.c.guest, state_in(_OTHER, *HELD)
    )
    return (state_in(table, *sources(Change.CLAIM)), table.c.not_before <= now(), ~busy)
