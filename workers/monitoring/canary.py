"""A task sent all the way, through the broker to a worker and into the database: only that proves
that the service works. A process that is there proves nothing."""

from __future__ import annotations

import secrets
import time

from celery import Celery
from sqlalchemy import delete, insert, select, update

from workers.database import Database
from workers.database.clock import now
from workers.database.schema import canaries
from workers.queue.celery_app import queue_of

_KEPT = 3600.0  # seconds


def send(app: Celery, database: Database, host: str) -> str:
    """Send one to a host's workers; its id."""
    canary_id = secrets.token_hex(8)
    with database.write() as connection:
        connection.execute(delete(canaries).where(canaries.c.sent < now() - _KEPT))
        connection.execute(insert(canaries).values(id=canary_id, host=host, sent=now()))
    app.send_task("sandbox.canary", (canary_id,), queue=queue_of(host), ignore_result=True)
    return canary_id


def answer(database: Database, canary_id: str, worker: str) -> None:
    with database.write() as connection:
        connection.execute(
            update(canaries).where(canaries.c.id == canary_id).values(answered=now(), worker=worker)
        )


def wait_for(database: Database, canary_id: str, seconds: float) -> tuple[str, float] | None:
    """(the worker that answered, seconds on the way); None when no worker did in time."""
    query = select(canaries.c.worker, canaries.c.answered - canaries.c.sent).where(
        canaries.c.id == canary_id, canaries.c.answered.is_not(None)
    )
    end = time.monotonic() + seconds
    while True:
        with database.read() as connection:
            found = connection.execute(query).first()
        if found is not None:
            return str(found[0]), float(found[1])
        if time.monotonic() > end:
            return None
        time.sleep(0.05)
