"""Due times, also where clocks are changed; what becomes of missed ones; the spread of a night."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.schedule.due_times import (
    MOST_MISSED,
    Due,
    delay,
    due_times,
    next_due,
    night_id,
    plan,
    spread,
)

DAY = 86400.0
ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "Asia/Kolkata"),
    *("Australia/Lord_Howe", "America/Santiago", "Pacific/Apia", "Africa/Casablanca"),
)
zones = st.sampled_from(ZONES).map(ZoneInfo)
crons = st.one_of(
    st.builds("{} {} * * *".format, st.integers(0, 59), st.integers(0, 23)),
    st.builds("{} {} * * {}".format, st.integers(0, 59), st.integers(0, 4), st.integers(0, 6)),
    st.sampled_from(["0,30 1-3 * * *", "*/20 * * * *", "0 * * * *", "15 */2 * * *", "0 3 1 * *"]),
)
# Not December 2011: Samoa left out a whole day.
moments = st.integers(
    int(datetime(2012, 2, 1, tzinfo=UTC).timestamp()),
    int(datetime(2036, 1, 1, tzinfo=UTC).timestamp()),
)


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def dues(cron: str, zone: str, after: str, until: str) -> list[str]:
    found = due_times(cron, ZoneInfo(zone), utc(after), utc(until))
    return [f"{datetime.fromtimestamp(at, UTC):%m-%d %H:%M}" for at in found]


def test_a_zone_of_summer_time_keeps_the_hour_of_the_day() -> None:
    assert (
        dues("0 1 * * *", "Europe/Berlin", "2026-03-28", "2026-03-30")
        == [
            "03-28 00:00",
            "03-29 00:00",
            "03-29 23:00",
        ][1:]
    )
    assert dues("0 12 * * *", "Europe/Berlin", "2026-03-28", "2026-03-30") == [
        "03-28 11:00",
        "03-29 10:00",
    ]


def test_a_time_that_is_skipped_comes_right_after_the_gap_and_once() -> None:
    skipped = dues("30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", "2026-03-30 12:00")
    assert skipped == ["03-29 01:00", "03-30 00:30"]
    assert dues("0 2,3 * * *", "Europe/Berlin", "2026-03-28 12:00", "2026-03-29 12:00") == [
        "03-29 01:00"
    ]


def test_a_time_that_comes_twice_is_due_once() -> None:
    assert dues("30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", "2026-10-26 12:00") == [
        "10-25 00:30",
        "10-26 01:30",
    ]
    for begun in ("2026-10-25 00:30", "2026-10-25 00:45", "2026-10-25 01:00", "2026-10-25 01:15"):
        assert dues("30 2 * * *", "Europe/Berlin", begun, "2026-10-25 12:00") == []


@given(crons, zones, moments, st.integers(0, 5 * 86400), st.integers(0, 5 * 86400))
@settings(max_examples=200, deadline=None)
def test_wherever_one_looks_from_the_due_times_are_the_same(
    cron: str, zone: ZoneInfo, start: int, first: int, second: int
) -> None:
    """What two beats see, or one before and after a restart."""
    middle, end = start + first, start + first + second
    whole = due_times(cron, zone, start, end)
    assert whole == sorted(set(whole))
    assert all(start < at <= end for at in whole)
    assert whole == due_times(cron, zone, start, middle) + due_times(cron, zone, middle, end)


@given(st.integers(0, 59), st.integers(0, 23), zones, moments)
@settings(max_examples=200, deadline=None)
def test_a_daily_night_comes_once_a_day(minute: int, hour: int, zone: ZoneInfo, start: int) -> None:
    found = due_times(f"{minute} {hour} * * *", zone, start, start + 30 * DAY)
    local = [datetime.fromtimestamp(at, zone) for at in found]
    days = [moment.date() for moment in local]
    assert len(days) == len(set(days))
    assert 28 <= len(days) <= 31
    for moment in local:
        assert (moment.hour, moment.minute) == (hour, minute) or _after_a_gap(moment, zone)


def _after_a_gap(moment: datetime, zone: ZoneInfo) -> bool:
    before = datetime.fromtimestamp(moment.timestamp() - 60, zone)
    return before.utcoffset() != moment.utcoffset()


@given(crons, zones, moments)
@settings(max_examples=100, deadline=None)
def test_the_next_due_time_is_the_first_of_those_to_come(
    cron: str, zone: ZoneInfo, moment: int
) -> None:
    following = next_due(cron, zone, moment)
    assert following is not None
    assert due_times(cron, zone, moment, following) == [following]


def test_what_is_on_time_is_run_and_what_was_missed_goes_by_the_policy() -> None:
    assert plan([], 100.0, 60.0, "run") == []
    assert plan([100.0], 150.0, 60.0, "report") == [Due(100.0, "run")]
    assert plan([100.0], 161.0, 60.0, "report") == [Due(100.0, "missed")]
    assert plan([100.0], 161.0, 60.0, "run") == [Due(100.0, "run")]


def test_of_many_missed_ones_only_the_last_is_run() -> None:
    many = [float(n) for n in range(200)]
    planned = plan(many, 10_000.0, 60.0, "run")
    assert [due.outcome for due in planned] == ["missed"] * (MOST_MISSED - 1) + ["run"]
    assert planned[-1].at == 199.0


guests = st.lists(
    st.tuples(st.sampled_from("abc"), st.text("xyz01", min_size=1, max_size=4)), max_size=30
)


@given(guests, st.integers(0, 86400), st.randoms())
@settings(max_examples=100, deadline=None)
def test_guests_are_spread_over_the_window_always_the_same(
    listed: list[tuple[str, str]], window: int, random: object
) -> None:
    begins = spread(listed, window)
    assert set(begins) == set(listed)
    assert all(0 <= begin < window or begin == window == 0 for begin in begins.values())
    shuffled = list(listed)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert spread(shuffled, window) == begins
    for host in {guest[0] for guest in begins}:
        times = sorted(begin for guest, begin in begins.items() if guest[0] == host)
        for one, other in pairwise(times):
            assert other - one == pytest.approx(window / len(times))


def test_hosts_do_not_begin_all_at_once() -> None:
    begins = spread([(f"xen{n}", "web01") for n in range(4)], 400.0)
    assert sorted(begins.values()) == [0.0, 100.0, 200.0, 300.0]


def test_a_night_on_time_keeps_to_its_window_and_a_late_one_gets_its_own() -> None:
    assert delay(600.0, due=1000.0, moment=1010.0, tolerance=3600.0) == 590.0
    assert delay(5.0, due=1000.0, moment=1010.0, tolerance=3600.0) == 0.0
    assert delay(600.0, due=1000.0, moment=9000.0, tolerance=3600.0) == 600.0


def test_a_night_has_a_name_that_can_be_read() -> None:
    assert night_id("web", utc("2026-11-25 01:30")) == "web@2026-11-25T01:30Z"
