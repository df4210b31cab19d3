"""Counts that outlive the rows and processes that they are of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, update
from sqlalchemy.dialects import postgresql, sqlite

from workers.database.clock import now
from workers.database.schema import counters

TICKED = "ticked_at"
PHASE_SECONDS, PHASE_COUNT = "phase_seconds ", "phase_count "


def count(connection: Connection, name: str, by: float = 1.0) -> None:
    """Add to a counter."""
    add(connection, {name: by})


def add(connection: Connection, amounts: Mapping[str, float]) -> None:
    """Add to several, always in the same order: two transactions do not wait for each other."""
    if not amounts:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    rows = [{"name": name, "value": amounts[name]} for name in sorted(amounts)]
    added = dialect.insert(counters).values(rows)
    connection.execute(
        added.on_conflict_do_update(
            index_elements=[counters.c.name],
            set_={"value": counters.c.value + added.excluded.value},
        )
    )


def note_now(connection: Connection, name: str) -> None:
    """The counter is the instant of the last time."""
    count(connection, name, 0.0)
    connection.execute(update(counters).where(counters.c.name == name).values(value=now()))


def count_phases(connection: Connection, evidence: Mapping[str, Any]) -> None:
    """How long the phases of an attempt took."""
    seconds: Mapping[str, float] = evidence.get("seconds") or {}
    taken = {f"{PHASE_SECONDS}{phase}": float(took) for phase, took in seconds.items()}
    add(connection, taken | {f"{PHASE_COUNT}{phase}": 1.0 for phase in seconds})
