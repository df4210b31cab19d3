"""How long a vendor wants quiet, as it says it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.chat.wire import PAUSE, wait_of


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "30"}, 30.0),
        ({"retry-after": "0"}, 1.0),
        ({"Retry-After": "86400"}, 3600.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, PAUSE),
        ({"Retry-After": "-1"}, 1.0),
        ({}, PAUSE),
    ],
)
def test_its_words_are_taken(headers: dict[str, str], seconds: float) -> None:
    assert wait_of(headers) == seconds


def test_githubs_hour_ends_when_it_says() -> None:
    reset = str(int(time.time()) + 100)
    assert 90 < wait_of({"X-RateLimit-Reset": reset, "X-RateLimit-Remaining": "0"}) <= 100


NAMES = st.sampled_from(["Retry-After", "x-ratelimit-reset"])


@given(st.dictionaries(NAMES, st.text() | st.floats().map(str)))
def test_nobody_is_waited_for_in_vain(headers: dict[str, str]) -> None:
    assert 1.0 <= wait_of(headers) <= 3600.0
