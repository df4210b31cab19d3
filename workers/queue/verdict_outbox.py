"""A verdict is news until a worker has decided whether people are notified of it."""

from __future__ import annotations

from sqlalchemy import Connection, insert, literal, select

from workers.database.clock import now
from workers.database.schema import news, runs

UNREAD = ""  # the target of news that no worker has examined yet


def note(connection: Connection, run_id: str) -> None:
    """In the transaction that writes the verdict. A night's runs are told of by its summary."""
    of_run = select(runs.c.id, literal(UNREAD), now()).where(
        runs.c.id == run_id, runs.c.night.is_(None)
    )
    connection.execute(insert(news).from_select(["run_id", "target", "try_at"], of_run))
