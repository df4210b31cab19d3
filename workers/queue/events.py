"""What a run tells those who watch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Float, Insert, Text, bindparam, insert, select

from workers.database.clock import now
from workers.database.schema import events

_LONGEST = 500
_COLUMNS = ("kind", "text", "percent")
_VALUES = (
    bindparam("said_kind", type_=Text),
    bindparam("said_text", type_=Text),
    bindparam("said_percent", type_=Float),
)
# Statements are made once: to make one costs as much as to execute it.
_SAY = insert(events).values(
    {"run_id": bindparam("run"), "at": now()} | dict(zip(_COLUMNS, _VALUES, strict=True))
)


def say(
    connection: Connection, run_id: str, kind: str, text: str, percent: float | None = None
) -> None:
    """Add an event, in the caller's transaction."""
    connection.execute(_SAY, {"run": run_id, **said(kind, text, percent)})


def saying(run_id: ColumnElement[str]) -> Insert:
    """The statement that adds an event for every row that the run's id is selected from."""
    return insert(events).from_select(["run_id", "at", *_COLUMNS], select(run_id, now(), *_VALUES))


def said(kind: str, text: str, percent: float | None) -> Mapping[str, Any]:
    """The parameters of such a statement."""
    return {"said_kind": kind, "said_text": text[:_LONGEST], "said_percent": percent}
