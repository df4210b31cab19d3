"""Leases on runs: a holder claims a run, renews its lease, reports progress, and ends the run.

Every write names the fence of its claim. When another worker has claimed the run since, nothing
is written and :class:`LeaseLost` is raised: the knowledge of this holder is out of date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    ScalarSelect,
    UpdateBase,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from sandbox.core.errors import HostError
from sandbox.core.records import Verdict
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import attempts, runs, state_in, verdicts
from workers.database.states import HELD, Change, RunState, after
from workers.queue import check_results, verdict_outbox
from workers.queue.claimable import is_due
from workers.queue.counters import count_phases
from workers.queue.events import said, say, saying
from workers.queue.values import Claim, Outcome, Renewal

# Made once: the copy of a table costs more than a statement with it.
_NEXT, _OTHER = runs.alias("next_one"), runs.alias("other")
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 1800.0  # seconds between attempts, doubled each time
# Of a run for which its host has no room: an eighth of the time that it has waited so far.
NO_ROOM_PAUSES = (30.0, 300.0)  # seconds, least and most


class LeaseLost(HostError):
    """Another worker holds the run now, or no worker does."""

    def __init__(self, claim: Claim) -> None:
        super().__init__(
            f"the lease on run {claim.run_id} is lost (attempt {claim.attempt})",
            "another worker has taken it over; nothing is lost",
        )


def claim(
    database: Database,
    host: str,
    owner: str,
    lease: float,
    parallel: int | None,
    slots: int | None = None,
) -> Claim | None:
    """Take the next run of a host: the most urgent, then the oldest, of a guest that is not being
    rehearsed. None when there is none, when the host has its ``parallel`` runs already, or the
    owner its ``slots``.
    """
    try:
        with database.write() as connection:
            limits = ((runs.c.host, host, parallel), (runs.c.owner, owner, slots))
            given = [(column, value, most) for column, value, most in limits if most is not None]
            _count_alone(connection, *((column.name, value) for column, value, _most in given))
            room = [_held_by(column, value) < most for column, value, most in given]
            return _claim(connection, host, owner, lease, room)
    except IntegrityError:  # another worker took one of the same guest in this moment
        return None


def _count_alone(connection: Connection, *what: tuple[str, str]) -> None:
    """Until the transaction ends, no other worker counts the runs of this host or this worker."""
    if connection.dialect.name == "postgresql" and what:  # SQLite has one writer anyway
        keys = (func.hashtext(f"{name} {value}") for name, value in what)
        connection.execute(select(*(func.pg_advisory_xact_lock(7265626, key) for key in keys)))


def _held_by(column: Column[str], value: str) -> ScalarSelect[int]:
    """How many runs a host or a worker has."""
    count = select(func.count()).where(_OTHER.c[column.name] == value, state_in(_OTHER, *HELD))
    return count.scalar_subquery()


def _claim(
    connection: Connection,
    host: str,
    owner: str,
    lease: float,
    room: Sequence[ColumnElement[bool]],
) -> Claim | None:
    following = (
        select(_NEXT.c.id)
        .where(_NEXT.c.host == host, *is_due(_NEXT), *room)
        .order_by(_NEXT.c.priority, _NEXT.c.submitted, _NEXT.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=_NEXT)
        .scalar_subquery()
    )
    row = connection.execute(
        update(runs)
        .where(runs.c.id == following, state_in(runs, RunState.QUEUED))
        .values(
            state=after(RunState.QUEUED, Change.CLAIM),
            owner=owner,
            fence=runs.c.fence + 1,
            attempts=runs.c.attempts + 1,
            lease_until=now() + lease,
            started=now(),
            phase="",
            waiting="",
        )
        .returning(
            runs.c.id,
            runs.c.fence,
            runs.c.attempts,
            runs.c.most_attempts,
            runs.c.guest,
            runs.c.scenario,
            runs.c.request,
        )
    ).first()
    if row is None:
        return None
    connection.execute(
        insert(attempts).values(run_id=row.id, fence=row.fence, owner=owner, started=now())
    )
    say(connection, row.id, "state", f"attempt {row.attempts} on {host}, by {owner}")
    return Claim(
        run_id=row.id,
        fence=row.fence,
        owner=owner,
        attempt=row.attempts,
        most_attempts=row.most_attempts,
        host=host,
        guest=row.guest,
        scenario=row.scenario,
        request=row.request,
    )


def renew(database: Database, claim: Claim, lease: float) -> Renewal:
    """Keep the run for so long from now."""
    with database.single() as connection:
        state = connection.execute(
            _held(claim).values(lease_until=now() + lease).returning(runs.c.state)
        ).scalar()
    if state is None:
        return Renewal.LOST
    return Renewal.CANCEL if state == RunState.CANCELLING else Renewal.KEPT


def tell(
    database: Database, claim: Claim, kind: str, text: str, percent: float | None = None
) -> None:
    """An event of the run; a ``phase`` is what `status` shows."""
    event = said(kind, text, percent)
    if kind != "phase":
        _alone(database, claim, _TELL, event)
    elif database.engine.dialect.name == "postgresql":  # can do both in one statement
        _alone(database, claim, _TELL_PHASE, {**event, "new_phase": text})
    else:
        with database.write() as connection:
            _must_hold(connection, claim, {"phase": text})
            say(connection, claim.run_id, kind, text, percent)


def note_folder(database: Database, claim: Claim, folder: str) -> None:
    """Where the worker keeps the attempt's record and artifacts."""
    _alone(database, claim, _NOTE_FOLDER, {"new_folder": folder})


def finish(database: Database, claim: Claim, outcome: Outcome) -> RunState:
    """The attempt is over, and nothing of it is left: its verdict is the run's.

    An ``error`` says nothing of the upgrade: while attempts are left the run is queued again,
    after a pause that grows. A ``fail`` is never tried again.
    """
    with database.write() as connection:
        state = _state_held(connection, claim)
        again = outcome.verdict is Verdict.ERROR and claim.attempt < claim.most_attempts
        to = after(state, Change.TRY_AGAIN if again else Change.DECIDE)
        if to is RunState.QUEUED:
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (claim.attempt - 1))
            _leave(connection, claim, to, not_before=now() + pause, waiting=outcome.reason)
        elif to is RunState.FINISHED:
            decide(connection, claim.run_id, claim.fence, outcome)
            check_results.note(connection, claim, outcome.checks)
            _leave(connection, claim, to, verdict=outcome.verdict, reason=outcome.reason)
        else:
            _leave(connection, claim, to)
        _end_attempt(connection, claim, outcome.verdict, outcome.reason)
        count_phases(connection, outcome.evidence)
        word = outcome.verdict.value if to is RunState.FINISHED else f"{to.value}: attempt failed"
        say(connection, claim.run_id, "state", f"{word}: {outcome.reason}")
    return to


def hand_back(database: Database, claim: Claim, why: str, pause: float) -> RunState:
    """Not now: the run waits again, and no attempt is used up. ``pause``: seconds."""
    with database.write() as connection:
        to = after(_state_held(connection, claim), Change.HAND_BACK)
        more: dict[str, Any] = {"attempts": runs.c.attempts - 1}
        if to is RunState.QUEUED:
            more |= {"not_before": now() + pause, "waiting": why}
        _leave(connection, claim, to, **more)
        _end_attempt(connection, claim, Change.HAND_BACK, why)
        say(connection, claim.run_id, "state", f"{to.value}: {why}")
    return to


def not_now(database: Database, claim: Claim, why: str) -> RunState:
    """The host has no room: the run waits, and a try that made nothing is forgotten."""
    least, most = NO_ROOM_PAUSES
    with database.read() as connection:
        waited = connection.execute(
            select(now() - runs.c.submitted).where(runs.c.id == claim.run_id)
        ).scalar_one()
    state = hand_back(database, claim, why, min(most, max(least, waited / 8)))
    with database.write() as connection:
        connection.execute(
            delete(attempts).where(
                attempts.c.run_id == claim.run_id, attempts.c.fence == claim.fence
            )
        )
    return state


def stopped(database: Database, claim: Claim) -> RunState:
    """A cancelled run's clone is gone."""
    with database.write() as connection:
        to = after(_state_held(connection, claim), Change.STOP)
        _leave(connection, claim, to)
        _end_attempt(connection, claim, Change.STOP, "cancelled")
        say(connection, claim.run_id, "state", to.value)
    return to


def decide(connection: Connection, run_id: str, fence: int, outcome: Outcome) -> None:
    """Write the verdict down; a second one is refused by the table."""
    connection.execute(
        insert(verdicts).values(
            run_id=run_id,
            fence=fence,
            verdict=outcome.verdict,
            reason=outcome.reason,
            evidence=dict(outcome.evidence),
            decided=now(),
        )
    )
    verdict_outbox.note(connection, run_id)


def _held(claim: Claim) -> Any:
    return update(runs).where(*_mine(claim))


def _mine(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return (runs.c.id == claim.run_id, runs.c.fence == claim.fence, state_in(runs, *HELD))


def _alone(
    database: Database, claim: Claim, statement: UpdateBase, values: Mapping[str, Any]
) -> None:
    """A fenced statement that is a transaction of its own."""
    mine = {"run": claim.run_id, "held_fence": claim.fence}
    with database.single() as connection:
        if connection.execute(statement, {**values, **mine}).rowcount != 1:
            raise LeaseLost(claim)


# Made once, as those of events are.
_MINE = (
    runs.c.id == bindparam("run"),
    runs.c.fence == bindparam("held_fence"),
    state_in(runs, *HELD),
)
_CHANGED = (
    update(runs)
    .where(*_MINE)
    .values(phase=bindparam("new_phase"))
    .returning(runs.c.id)
    .cte("changed")
)
_TELL = saying(select(runs.c.id).where(*_MINE).subquery().c.id).execution_options(
    preserve_rowcount=True
)
_TELL_PHASE = saying(_CHANGED.c.id).add_cte(_CHANGED).execution_options(preserve_rowcount=True)
_NOTE_FOLDER = (
    update(attempts)
    .where(
        attempts.c.run_id == bindparam("run"),
        attempts.c.fence == bindparam("held_fence"),
        exists().where(*_MINE),
    )
    .values(folder=bindparam("new_folder"))
)


def _must_hold(connection: Connection, claim: Claim, values: Mapping[str, Any]) -> None:
    if not connection.execute(_held(claim).values(values)).rowcount:
        raise LeaseLost(claim)


def _state_held(connection: Connection, claim: Claim) -> RunState:
    """The run's state, locked for the rest of the transaction."""
    mine = select(runs.c.state).where(*_mine(claim)).with_for_update()
    state = connection.execute(mine).scalar()
    if state is None:
        raise LeaseLost(claim)
    return RunState(state)


def _leave(connection: Connection, claim: Claim, to: RunState, **values: Any) -> None:
    ended = {} if to is RunState.QUEUED else {"ended": now()}
    _must_hold(connection, claim, {"state": to, "lease_until": None, **ended, **values})


def _attempt(claim: Claim) -> Any:
    return update(attempts).where(
        attempts.c.run_id == claim.run_id, attempts.c.fence == claim.fence
    )


def _end_attempt(connection: Connection, claim: Claim, outcome: str, reason: str) -> None:
    connection.execute(_attempt(claim).values(ended=now(), outcome=outcome, reason=reason))
