"""Runs come in, and wishes are taken back."""

from __future__ import annotations

import secrets
import time

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from sandbox.core.errors import HostError
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import runs, state_in
from workers.database.states import OPEN, Change, RunState, after
from workers.queue.events import say
from workers.queue.idempotency import Once, asked_before, note
from workers.queue.values import NoSuchRun, Order, Submitted

_TRIES = 5


def submit(database: Database, order: Order, once: Once | None = None) -> Submitted:
    """Queue a run, or join an equal one that is open; a repeated ``once`` gets the same.

    Raises :class:`KeyReused` when something else was asked for under that key.
    """
    for _attempt in range(_TRIES):
        try:
            with database.write() as connection:
                before = asked_before(connection, once) if once else None
                if before is not None:
                    return before
                told = submit_in(connection, order)
                if once:
                    note(connection, once, told)
                return told
        except IntegrityError:  # an equal one came in between: the next look finds it
            continue
    raise HostError(
        f"the run of {order.scenario} for {order.guest} could not be queued",
        "equal requests came and went too quickly: try again",
    )


def submit_in(connection: Connection, order: Order) -> Submitted:
    """The same, within a transaction of the caller's.

    Raises :class:`sqlalchemy.exc.IntegrityError` when an equal one was queued at the same moment.
    """
    run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
    wish = order.wish(run_id)
    open_one = connection.execute(
        select(runs.c.id, runs.c.priority).where(runs.c.wish == wish, state_in(runs, *OPEN))
    ).first()
    if open_one is not None:
        if order.priority < open_one.priority:  # the new request is more urgent
            connection.execute(
                update(runs)
                .where(runs.c.id == open_one.id, state_in(runs, RunState.QUEUED))
                .values(priority=order.priority, not_before=now())
            )
        say(connection, open_one.id, "state", f"joined by {order.origin}")
        return Submitted(str(open_one.id), joined=True)
    connection.execute(
        insert(runs).values(
            id=run_id,
            scenario=order.scenario,
            guest=order.guest,
            host=order.host,
            request=order.request,
            wish=wish,
            state=RunState.QUEUED,
            priority=order.priority,
            submitted=now(),
            not_before=now() + order.delay,
            most_attempts=order.most_attempts,
            origin=order.origin,
            night=order.night,
        )
    )
    say(connection, run_id, "state", f"queued by {order.origin}")
    return Submitted(run_id, joined=False)


def cancel(database: Database, run_id: str, who: str) -> RunState:
    """Take a run's wish back: its state then. Its worker removes the clone, if there is one.

    One that is being cancelled already is left as it is. Raises :class:`WrongState` for a run
    that has ended, :class:`NoSuchRun` for one that there is not.
    """
    with database.write() as connection:
        state = _state(connection, run_id)
        if state is RunState.CANCELLING:
            return state
        to = after(state, Change.CANCEL)
        values = {"state": to} | ({"ended": now()} if to is RunState.CANCELLED else {})
        changed = connection.execute(
            update(runs).where(runs.c.id == run_id, runs.c.state == state).values(values)
        )
        if changed.rowcount:
            say(connection, run_id, "state", f"{to.value}, asked by {who}")
            return to
    return cancel(database, run_id, who)  # it has moved on meanwhile: once more, as it is now


def _state(connection: Connection, run_id: str) -> RunState:
    found = connection.execute(select(runs.c.state).where(runs.c.id == run_id)).scalar()
    if found is None:
        raise NoSuchRun(run_id)
    return RunState(found)
