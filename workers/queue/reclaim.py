"""Runs whose holder is gone: killed, cut off, or on a machine that is no more."""

from __future__ import annotations

from typing import Any

import structlog
from sqlalchemy import Connection, Row, select, update

from sandbox.core.errors import SandboxError
from sandbox.core.records import Verdict
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import attempts, counters, runs, state_in
from workers.database.states import HELD, Change, RunState, after
from workers.queue.counters import count, note_now
from workers.queue.events import say
from workers.queue.leases import decide
from workers.queue.values import Outcome, Swept

log = structlog.get_logger("sandbox.sweeping")
_REAP = "reap "  # and a host: when it was last asked for; 0 when it was done


def sweep(database: Database, grace: float = 0.0) -> Swept:
    """End the holding of every run whose lease ran out ``grace`` seconds ago or earlier.

    What the holder knew is lost, so this never decides anything but ``error``.
    """
    swept: dict[RunState, list[str]] = {state: [] for state in RunState}
    with database.read() as connection:
        late = connection.execute(
            select(runs.c.id, runs.c.fence, runs.c.host).where(
                state_in(runs, *HELD), runs.c.lease_until < now() - grace
            )
        ).all()
    for row in late:
        with database.write() as connection:
            to = _take_from_holder(connection, row.id, row.fence, grace)
            if to is not None:
                swept[to].append(row.id)
                count(connection, "leases_lost")
                want_reaped(connection, row.host)
    return Swept(
        *(tuple(swept[s]) for s in (RunState.QUEUED, RunState.FINISHED, RunState.CANCELLED))
    )


def _take_from_holder(
    connection: Connection, run_id: str, fence: int, grace: float
) -> RunState | None:
    """The run's new state; None when its holder was there again, or another sweeper first."""
    mine = (
        runs.c.id == run_id,
        runs.c.fence == fence,
        state_in(runs, *HELD),
        runs.c.lease_until < now() - grace,
    )
    row = connection.execute(
        select(runs.c.state, runs.c.attempts, runs.c.most_attempts, runs.c.owner, runs.c.phase)
        .where(*mine)
        .with_for_update(
            skip_locked=True
        )  # by a holder that froze: the others are not kept waiting
    ).first()
    if row is None:
        return None
    change = Change.LOSE if row.attempts < row.most_attempts else Change.GIVE_UP
    to = after(RunState(row.state), change)
    reason = _reason(row)
    values: dict[str, Any] = {"state": to, "lease_until": None, "fence": runs.c.fence + 1}
    if to is RunState.QUEUED:
        values |= {"not_before": now(), "waiting": reason}
    else:
        values |= {"ended": now()}
    if to is RunState.FINISHED:
        values |= {"verdict": Verdict.ERROR, "reason": reason}
    if not connection.execute(update(runs).where(*mine).values(values)).rowcount:
        return None
    if to is RunState.FINISHED:
        decide(connection, run_id, fence + 1, Outcome(Verdict.ERROR, reason))
    connection.execute(
        update(attempts)
        .where(attempts.c.run_id == run_id, attempts.c.fence == fence)
        .values(ended=now(), outcome=change, reason=reason)
    )
    say(connection, run_id, "state", f"{to.value}: {reason}")
    return to


def _reason(row: Row[*tuple[Any, ...]]) -> str:
    where = f" during {row.phase}" if row.phase else ""
    return f"the worker {row.owner} was lost{where} (attempt {row.attempts})"


def want_reaped(connection: Connection, host: str) -> None:
    """Note that something may be left on a host: no message, which could be lost, says so."""
    note_now(connection, f"{_REAP}{host}")


def note_left(database: Database, host: str) -> None:
    """A clean-up was not complete: a reaper goes on with it, until nothing is left."""
    try:
        with database.write() as connection:
            want_reaped(connection, host)
    except SandboxError as problem:  # hosts are looked at now and then as well
        log.warning("a reaper was not asked for", host=host, problem=str(problem))


def reaping_wanted(database: Database) -> dict[str, float]:
    """The hosts to look for leftovers on, with when that was last asked for."""
    query = select(counters.c.name, counters.c.value).where(
        counters.c.name.startswith(_REAP, autoescape=True), counters.c.value > 0
    )
    with database.read() as connection:
        return {name.removeprefix(_REAP): value for name, value in connection.execute(query)}


def was_reaped(database: Database, host: str, asked: float) -> None:
    """It was looked for; what was asked for since ``asked`` stands."""
    with database.write() as connection:
        connection.execute(
            update(counters)
            .where(counters.c.name == f"{_REAP}{host}", counters.c.value <= asked)
            .values(value=0.0)
        )
