"""What the tests of the ledger share: an order, and a worker that takes it."""

from __future__ import annotations

from sqlalchemy import update

from sandbox.core.records import Verdict
from workers.database import Database
from workers.database.schema import runs
from workers.queue import reading
from workers.queue.leases import (
    claim,
)
from workers.queue.values import Claim, Order, Outcome, RunRow

LEASE = 60.0
PASS = Outcome(Verdict.PASS, "all went well", {"packages": ["nginx"]})
FAIL = Outcome(Verdict.FAIL, "nginx does not start")
ERROR = Outcome(Verdict.ERROR, "the mirror did not answer")


def order(guest: str = "web01", **values: object) -> Order:
    return Order(scenario="security", guest=guest, host="xen1", **values)  # type: ignore[arg-type]


def take(database: Database, *, lease: float = LEASE, parallel: int | None = None) -> Claim | None:
    return claim(database, "xen1", "worker-a", lease, parallel)


def taken(database: Database, **values: float) -> Claim:
    held = take(database, **values)  # type: ignore[arg-type]
    assert held is not None
    return held


def row(database: Database, run_id: str) -> RunRow:
    return reading.get(database, run_id)


def make_due(database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(runs).values(not_before=0.0))
