"""What a run tells those who watch."""

from __future__ import annotations

from sqlalchemy import Connection, insert

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
