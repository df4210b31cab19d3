"""`schedule:` of a scenario: what is right is typed, what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from sandbox.scenario import ScheduledGuest, scenario_json_schema
from sandbox.scenario.schedule import Schedule
from tests.support.fakes.scenario_world import FULL, UP, load, make_folder, problems

HEAD = UP + "source: {guest: web01, host: xen1}\nschedule:\n  "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def test_everything_is_read(folder: Path) -> None:
    plan = load(folder, FULL).schedule
    assert plan is not None
    assert (plan.cron, plan.timezone, plan.window) == ("30 1 * * mon-fri", "Europe/Berlin", 10800)
    assert (plan.missed, plan.tolerance, plan.host) == ("report", 1800, "xen1")
    assert plan.guests == (
        ScheduledGuest(guest="web01"),
        ScheduledGuest(guest="db01", host="xen2"),
    )


def test_a_time_is_enough(folder: Path) -> None:
    plan = load(folder, HEAD + "cron: '0  2 * * *'\n").schedule
    assert plan is not None
    assert (plan.cron, plan.timezone, plan.window) == ("0 2 * * *", "UTC", 0)
    assert (plan.missed, plan.tolerance, plan.guests) == ("run", 3600, ())
    assert load(folder, UP).schedule is None
    assert load(folder, HEAD + "cron: '0 2 * * *'\n  window: 0\n").schedule == plan


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        ("window: 1h\n", "3: schedule.cron: is required", "minute hour"),
        ("cron: 5\n", "4: schedule.cron: must be text", "quotes"),
        ("cron: '* * * *'\n", "4: schedule.cron:", "five fields: minute hour"),
        ("cron: '0 0 2 * * *'\n", "4: schedule.cron:", "five fields"),
        ("cron: '61 2 * * *'\n", "4: schedule.cron: '61 2 * * *'", "Bad minute"),
        ("cron: '0 2 30 2 *'\n", "4: schedule.cron:", "Bad day-of-month"),
        ("cron: '@daily'\n", "4: schedule.cron:", "five fields"),
        ("corn: 0 2 * * *\n", "4: schedule.corn: unknown key", "did you mean 'cron'?"),
        (
            "cron: 0 2 * * *\n  timezone: Europe/Berln\n",
            "5: schedule.timezone: 'Europe/Berln'",
            "did you mean 'Europe/Berlin'?",
        ),
        ("cron: 0 2 * * *\n  timezone: ../etc\n", "5: schedule.timezone:", "no time zone"),
        ("cron: 0 2 * * *\n  window: 25h\n", "5: schedule.window:", "longer than a day"),
        ("cron: 0 2 * * *\n  window: false\n", "5: schedule.window:", "not a time"),
        ("cron: 0 2 * * *\n  missed: rnu\n", "5: schedule.missed:", "did you mean 'run'?"),
        ("cron: 0 2 * * *\n  tolerance: 0\n", "5: schedule.tolerance:", "between"),
        ("cron: 0 2 * * *\n  guests: web01\n", "5: schedule.guests: must be a list", "[a, b]"),
        ("cron: 0 2 * * *\n  guests: [a/b]\n", "5: schedule.guests.0", "holds '/'"),
        ("cron: 0 2 * * *\n  guests: [5]\n", "5: schedule.guests.0", "must be text"),
        (
            "cron: 0 2 * * *\n  guests:\n  - web01\n  - {gest: web02}\n",
            "7: schedule.guests.1.gest: unknown key",
            "did you mean 'guest'?",
        ),
        ("cron: 0 2 * * *\n  guests: [a, a]\n", "5: schedule.guests.1: 'a'", "named twice"),
        (
            "cron: 0 2 * * *\n  guests: [a, {guest: a, host: xen1}]\n",
            "5: schedule.guests.1: 'a'",
            "named twice",
        ),
        ("cron: 0 2 * * *\n  host: xen2\n", "5: schedule.host:", "needs guests"),
    ],
)
def test_a_mistake_is_named_with_line_key_and_remedy(
    folder: Path, text: str, start: str, words: str
) -> None:
    found = problems(folder, HEAD + text)
    assert [p for p in found if p.startswith(start) and words in p], found


def test_a_scenario_for_any_guest_must_say_for_which_it_is_run(folder: Path) -> None:
    (found,) = problems(folder, UP + "schedule: {cron: 0 2 * * *}\n")
    assert found.startswith("2: schedule.guests: is required")
    assert load(folder, UP + "schedule: {cron: 0 2 * * *, guests: [web01]}\n").schedule


@pytest.mark.parametrize(
    "text",
    [
        "schedule: {}\n",
        "schedule: {cron: 0 2 * * *, guests: [{host: xen1}]}\n",
        "schedule: {cron: 0 2 * * *, window: -1}\n",
        "schedule: {cron: 0 2 * * *, missed: later}\n",
    ],
)
def test_the_schema_refuses_what_is_wrong(text: str) -> None:
    data = yaml.safe_load(UP + text)
    assert list(Draft202012Validator(scenario_json_schema()).iter_errors(data))


@given(st.text(st.sampled_from("0123456789*/,-#LWlw mnsu"), max_size=30))
@settings(max_examples=150, deadline=None)
def test_whatever_the_expression_is_it_is_read_or_refused(text: str) -> None:
    try:
        plan = Schedule.model_validate({"cron": text})
    except ValueError:
        return
    assert len(plan.cron.split()) == 5
