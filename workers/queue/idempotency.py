"""The same wish asked for again, because the answer was lost, is the same run.

A client makes up a key for what it asks for. The key is written down in the transaction that queues
the run: there is no moment in which one is there without the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from sandbox.core.errors import RequestError
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import idempotency_keys
from workers.queue.values import Submitted

KEPT = 7 * 86400.0  # seconds; no client repeats a request for longer


@dataclass(frozen=True)
class Once:
    """Whose key it is, and what is asked for under it."""

    token_id: str
    key: str
    digest: str


class KeyReused(RequestError):
    """Something else was asked for under the key."""


def look(database: Database, once: Once) -> Submitted | None:
    """What was answered before; raises :class:`KeyReused`."""
    with database.read() as connection:
        return asked_before(connection, once)


def asked_before(connection: Connection, once: Once) -> Submitted | None:
    """The same, within a transaction of the caller's."""
    row = connection.execute(
        select(idempotency_keys).where(
            idempotency_keys.c.token_id == once.token_id, idempotency_keys.c.key == once.key
        )
    ).first()
    if row is None:
        return None
    if row.digest != once.digest:
        raise KeyReused(
            f"the Idempotency-Key {once.key!r} was used for another request, of run {row.run_id}",
            "make up a new key for each new wish; repeat one only with the same body",
        )
    return Submitted(row.run_id, bool(row.joined))


def note(connection: Connection, once: Once, told: Submitted) -> None:
    connection.execute(
        insert(idempotency_keys).values(
            token_id=once.token_id,
            key=once.key,
            digest=once.digest,
            run_id=told.run_id,
            joined=int(told.joined),
            created=now(),
        )
    )


def forget(database: Database) -> int:
    """Remove the keys that are too old to be repeated; how many."""
    with database.write() as connection:
        gone = connection.execute(
            delete(idempotency_keys).where(idempotency_keys.c.created < now() - KEPT)
        )
    return int(gone.rowcount)
