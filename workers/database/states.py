"""The states of a queued run and what may become of each: one table, pure.

``queued`` waits for a worker, also between two attempts. ``running`` is held by a worker under a
lease. ``cancelling`` is still held: its worker removes the clone. ``finished`` has its verdict,
``cancelled`` never gets one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sandbox.core.errors import RequestError


class RunState(StrEnum):
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


TRANSITIONS: Mapping[RunState, Mapping[Change, RunState]] = {
    RunState.QUEUED: {
        Change.CLAIM: RunState.RUNNING,
        Change.CANCEL: RunState.CANCELLED,
    },
    RunState.RUNNING: {
        Change.DECIDE: RunState.FINISHED,
        Change.TRY_AGAIN: RunState.QUEUED,
        Change.HAND_BACK: RunState.QUEUED,
        Change.LOSE: RunState.QUEUED,
        Change.GIVE_UP: RunState.FINISHED,
        Change.CANCEL: RunState.CANCELLING,
    },
    RunState.CANCELLING: {
        Change.DECIDE: RunState.FINISHED,  # the verdict was there before the wish was heard
        Change.STOP: RunState.CANCELLED,
        Change.LOSE: RunState.CANCELLED,
        Change.GIVE_UP: RunState.CANCELLED,
        Change.HAND_BACK: RunState.CANCELLED,
        Change.TRY_AGAIN: RunState.CANCELLED,
    },
    RunState.FINISHED: {},
    RunState.CANCELLED: {},
}
HELD = (RunState.RUNNING, RunState.CANCELLING)  # by a worker
OPEN = (RunState.QUEUED, RunState.RUNNING)  # what an equal request joins
ENDED = tuple(state for state in RunState if not TRANSITIONS[state])


def after(state: RunState, change: Change) -> RunState:
    """The state that a change leads to; raises :class:`WrongState` when it may not happen."""
    to = TRANSITIONS[state].get(change)
    if to is None:
        raise WrongState(
            f"a run that is {state.value} cannot {change.value}",
            "`sandbox status RUN` says how it stands",
        )
    return to


def sources(change: Change) -> tuple[RunState, ...]:
    """The states in which a change may happen."""
    return tuple(state for state, changes in TRANSITIONS.items() if change in changes)
