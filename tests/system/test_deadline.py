"""One clock per phase."""

from __future__ import annotations

import time

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded


def test_time_runs_down_and_never_below_nothing() -> None:
    deadline = Deadline(0.2, "boot")
    first = deadline.remaining()
    assert 0 < first <= 0.2
    assert not deadline.expired()
    time.sleep(0.25)
    assert deadline.remaining() == 0
    assert deadline.expired()


def test_nobody_oversleeps() -> None:
    started = time.monotonic()
    deadline = Deadline(0.2, "boot")
    deadline.sleep(60)
    assert time.monotonic() - started < 30
    with pytest.raises(DeadlineExceeded):
        deadline.sleep(60)
    assert time.monotonic() - started < 30
