"""The states of a queued run: one table, and what it promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.errors import RequestError
from workers.database.states import ENDED, HELD, OPEN, TRANSITIONS, Change, RunState, after, sources


def test_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(RunState)


def test_an_end_is_an_end() -> None:
    assert set(ENDED) == {RunState.FINISHED, RunState.CANCELLED}


def test_whatever_happens_to_a_held_run_is_foreseen() -> None:
    """A holder that is lost, drains or fails must never meet a state that it may not leave."""
    for change in (Change.LOSE, Change.GIVE_UP, Change.HAND_BACK, Change.TRY_AGAIN, Change.DECIDE):
        assert set(sources(change)) == set(HELD), change


def test_a_wish_that_was_taken_back_is_never_queued_again() -> None:
    for change, to in TRANSITIONS[RunState.CANCELLING].items():
        assert to is not RunState.QUEUED, change
    assert RunState.CANCELLING not in OPEN, "nobody joins it"


def test_a_verdict_is_only_given_by_a_holder_or_for_one_that_is_gone() -> None:
    for state, changes in TRANSITIONS.items():
        for change, to in changes.items():
            if to is RunState.FINISHED:
                assert state in HELD
                assert change in (Change.DECIDE, Change.GIVE_UP)


@given(st.lists(st.sampled_from(Change), max_size=30))
def test_every_way_through_ends_at_most_once(changes: list[Change]) -> None:
    state, ends = RunState.QUEUED, 0
    for change in changes:
        if state in sources(change):
            state = after(state, change)
            ends += state in ENDED
        else:
            with pytest.raises(RequestError):
                after(state, change)
    assert ends <= 1


def test_a_refused_change_says_what_and_why() -> None:
    with pytest.raises(RequestError, match="a run that is finished cannot cancel"):
        after(RunState.FINISHED, Change.CANCEL)
