"""What a run tells those who watch."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, Float, Insert, insert, literal, select

from workers.database.clock import now
from workers.database.schema import events

_LONGEST = 500


def say(
    connection: Connection, run_id: str, kind: str, text: str, percent: float | None = None
) -> None:
    """Add an event, in the caller's transaction."""
    connection.execute(
        insert(events).values(
            run_id=run_id, at=now(), kind=kind, text=text[:_LONGEST], percent=percent
        )
    )


def saying(
    run_id: ColumnElement[str], kind: str, text: str, percent: float | None = None
) -> Insert:
    """The statement that adds an event for every row that the run's id is selected from."""
    values = (literal(kind), literal(text[:_LONGEST]), literal(percent, Float))
    return insert(events).from_select(
        ["run_id", "at", "kind", "text", "percent"], select(run_id, now(), *values)
    )
