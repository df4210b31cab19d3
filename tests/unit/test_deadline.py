"""One clock per phase."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded, HostError


def test_a_late_phase_is_named_and_is_the_hosts_fault_by_default() -> None:
    with pytest.raises(DeadlineExceeded, match="boot took longer than 0 s") as caught:
        Deadline(0, "boot").check("look at the console")
    assert isinstance(caught.value, HostError)
    assert (caught.value.phase, caught.value.hint) == ("boot", "look at the console")


def test_a_check_in_time_says_nothing() -> None:
    Deadline(5, "boot").check()


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_part_never_has_more_than_the_whole(whole: float, part: float) -> None:
    deadline = Deadline(whole, "upgrade")
    within = deadline.within(part)
    assert within.phase == "upgrade"
    assert within.remaining() <= min(whole, part)
    assert within.remaining() >= min(whole, part) - 1
