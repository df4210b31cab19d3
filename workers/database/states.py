"""The states of a queued run and what may become of each: one table, pure.

``queued`` waits for a worker, also between two attempts. ``running`` is held by a worker under a
lease. ``cancelling`` is still held: its worker removes the clone. ``finished`` has its verdict,
``cancelled`` never gets one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sandbox.core.errors import RequestError


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class WrongState(RequestError):
    """What is asked for cannot be done to a run that is as it is."""


class Change(StrEnum):
    """What happens to a run."""

    CLAIM = "claim"  # a worker takes it
    DECIDE = "decide"  # its worker has the verdict
    TRY_AGAIN = "try-again"  # an `error`, and attempts are left
    HAND_BACK = "hand-back"  # its worker drains, or the host has no room: no attempt is used up
    LOSE = "lose"  # its worker is gone; attempts are left
    GIVE_UP = "give-up"  # its worker is gone; no attempt is left
    CANCEL = "cancel"  # a person's wish
    STOP = "stop"  # a cancelled run's clone is gone


TRANSITIONS: Mapping[State, Mapping[Change, State]] = {
    State.QUEUED: {
        Change.CLAIM: State.RUNNING,
        Change.CANCEL: State.CANCELLED,
    },
    State.RUNNING: {
        Change.DECIDE: State.FINISHED,
        Change.TRY_AGAIN: State.QUEUED,
        Change.HAND_BACK: State.QUEUED,
        Change.LOSE: State.QUEUED,
        Change.GIVE_UP: State.FINISHED,
        Change.CANCEL: State.CANCELLING,
    },
    State.CANCELLING: {
        Change.DECIDE: State.FINISHED,  # the verdict was there before the wish was heard
        Change.STOP: State.CANCELLED,
        Change.LOSE: State.CANCELLED,
        Change.GIVE_UP: State.CANCELLED,
        Change.HAND_BACK: State.CANCELLED,
        Change.TRY_AGAIN: State.CANCELLED,
    },
    State.FINISHED: {},
    State.CANCELLED: {},
}
HELD = (State.RUNNING, State.CANCELLING)  # by a worker
OPEN = (State.QUEUED, State.RUNNING)  # what an equal request joins
ENDED = tuple(state for state in State if not TRANSITIONS[state])


def after(state: State, change: Change) -> State:
    """The state that a change leads to; raises :class:`WrongState` when it may not happen."""
    to = TRANSITIONS[state].get(change)
    if to is None:
        raise WrongState(
            f"a run that is {state.value} cannot {change.value}",
            "`sandbox status RUN` says how it stands",
        )
    return to


def sources(change: Change) -> tuple[State, ...]:
    """The states in which a change may happen."""
    return tuple(state for state, changes in TRANSITIONS.items() if change in changes)
