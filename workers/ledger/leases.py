"""For whoever holds a run: claim it, keep it, say how it goes, and end it.

Every write names the fence of its claim. When somebody else has claimed the run since, nothing
is written and :class:`LeaseLost` is raised: what this holder knows is not the truth any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Column, Connection, and_, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from sandbox.errors import HostError
from sandbox.records import Verdict
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import attempts, runs, verdicts
from workers.ledger.counting import count_phases
from workers.ledger.events import say
from workers.ledger.values import Claim, Outcome, Renewal
from workers.states import HELD, Change, State, after, sources

FIRST_PAUSE, LONGEST_PAUSE = 60.0, 1800.0  # seconds between attempts, doubled each time


class LeaseLost(HostError):
    """Somebody else holds the run now, or nobody."""

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
            for column, value, most in (
                (runs.c.host, host, parallel),
                (runs.c.owner, owner, slots),
            ):
                if most is not None and _held_by(connection, column, value) >= most:
                    return None
            return _claim(connection, host, owner, lease)
    except IntegrityError:  # another worker took one of the same guest in this moment
        return None


def _held_by(connection: Connection, column: Column[str], value: str) -> int:
    """How many runs a host or a worker has; until the transaction's end nobody else counts."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
        key = func.hashtext(f"{column.name} {value}")
        connection.execute(select(func.pg_advisory_xact_lock(7265626, key)))
    held = select(func.count()).where(column == value, runs.c.state.in_(HELD))
    return int(connection.execute(held).scalar_one())


def _claim(connection: Connection, host: str, owner: str, lease: float) -> Claim | None:
    other = runs.alias("other")
    busy = exists().where(
        other.c.host == runs.c.host, other.c.guest == runs.c.guest, other.c.state.in_(HELD)
    )
    following = (
        select(runs.c.id)
        .where(
            runs.c.host == host,
            runs.c.state.in_(sources(Change.CLAIM)),
            runs.c.not_before <= now(),
            ~busy,
        )
        .order_by(runs.c.priority, runs.c.submitted, runs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    run_id = connection.execute(following).scalar()
    if run_id is None:
        return None
    row = connection.execute(
        update(runs)
        .where(runs.c.id == run_id, runs.c.state == State.QUEUED)
        .values(
            state=after(State.QUEUED, Change.CLAIM),
            owner=owner,
            fence=runs.c.fence + 1,
            attempts=runs.c.attempts + 1,
            lease_until=now() + lease,
            started=now(),
            phase="",
            waiting="",
        )
        .returning(
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
        insert(attempts).values(run_id=run_id, fence=row.fence, owner=owner, started=now())
    )
    say(connection, run_id, "state", f"attempt {row.attempts} on {host}, by {owner}")
    return Claim(
        run_id=run_id,
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
    with database.write() as connection:
        state = connection.execute(
            _held(claim).values(lease_until=now() + lease).returning(runs.c.state)
        ).scalar()
    if state is None:
        return Renewal.LOST
    return Renewal.CANCEL if state == State.CANCELLING else Renewal.KEPT


def tell(
    database: Database, claim: Claim, kind: str, text: str, percent: float | None = None
) -> None:
    """An event of the run; a ``phase`` is what `status` shows."""
    with database.write() as connection:
        if kind == "phase":
            _must_hold(connection, claim, {"phase": text})
        else:
            _must_hold(connection, claim, {"owner": claim.owner})
        say(connection, claim.run_id, kind, text, percent)


def note_folder(database: Database, claim: Claim, folder: str) -> None:
    """Where the worker keeps the attempt's record and artifacts."""
    with database.write() as connection:
        _must_hold(connection, claim, {"owner": claim.owner})
        connection.execute(_attempt(claim).values(folder=folder))


def finish(database: Database, claim: Claim, outcome: Outcome) -> State:
    """The attempt is over, and nothing of it is left: its verdict is the run's.

    An ``error`` says nothing of the upgrade: while attempts are left the run is queued again,
    after a pause that grows. A ``fail`` is never tried again.
    """
    with database.write() as connection:
        state = _state_held(connection, claim)
        again = outcome.verdict is Verdict.ERROR and claim.attempt < claim.most_attempts
        to = after(state, Change.TRY_AGAIN if again else Change.DECIDE)
        if to is State.QUEUED:
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (claim.attempt - 1))
            _leave(connection, claim, to, not_before=now() + pause, waiting=outcome.reason)
        elif to is State.FINISHED:
            decide(connection, claim.run_id, claim.fence, outcome)
            _leave(connection, claim, to, verdict=outcome.verdict, reason=outcome.reason)
        else:
            _leave(connection, claim, to)
        _end_attempt(connection, claim, outcome.verdict, outcome.reason)
        count_phases(connection, outcome.evidence)
        word = outcome.verdict.value if to is State.FINISHED else f"{to.value}: attempt failed"
        say(connection, claim.run_id, "state", f"{word}: {outcome.reason}")
    return to


def hand_back(database: Database, claim: Claim, why: str, pause: float) -> State:
    """Not now: the run waits again, and no attempt is used up. ``pause``: seconds."""
    with database.write() as connection:
        to = after(_state_held(connection, claim), Change.HAND_BACK)
        more: dict[str, Any] = {"attempts": runs.c.attempts - 1}
        if to is State.QUEUED:
            more |= {"not_before": now() + pause, "waiting": why}
        _leave(connection, claim, to, **more)
        _end_attempt(connection, claim, Change.HAND_BACK, why)
        say(connection, claim.run_id, "state", f"{to.value}: {why}")
    return to


def stopped(database: Database, claim: Claim) -> State:
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


def _held(claim: Claim) -> Any:
    return update(runs).where(
        and_(runs.c.id == claim.run_id, runs.c.fence == claim.fence, runs.c.state.in_(HELD))
    )


def _must_hold(connection: Connection, claim: Claim, values: Mapping[str, Any]) -> None:
    if not connection.execute(_held(claim).values(values)).rowcount:
        raise LeaseLost(claim)


def _state_held(connection: Connection, claim: Claim) -> State:
    """The run's state, locked for the rest of the transaction."""
    _must_hold(connection, claim, {"owner": claim.owner})
    found = connection.execute(select(runs.c.state).where(runs.c.id == claim.run_id))
    return State(found.scalar_one())


def _leave(connection: Connection, claim: Claim, to: State, **values: Any) -> None:
    ended = {} if to is State.QUEUED else {"ended": now()}
    _must_hold(connection, claim, {"state": to, "lease_until": None, **ended, **values})


def _attempt(claim: Claim) -> Any:
    return update(attempts).where(
        attempts.c.run_id == claim.run_id, attempts.c.fence == claim.fence
    )


def _end_attempt(connection: Connection, claim: Claim, outcome: str, reason: str) -> None:
    connection.execute(_attempt(claim).values(ended=now(), outcome=outcome, reason=reason))
