"""Nights are begun exactly once a due time, on SQLite and on PostgreSQL, whoever notices them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from sandbox.scenario.request import Request, prepare
from tests.support.service.nights_world import (
    DAY,
    DUE,
    FIRST_SEEN,
    PATIENCE,
    World,
    all_nights,
    all_runs,
    guests_of,
)
from workers.database import Database, open_database
from workers.database.schema import workers
from workers.queue.orders import order_of
from workers.queue.submission import submit
from workers.queue.values import Priority
from workers.schedule import enqueue
from workers.schedule.night_reports import read_night
from workers.settings import ServiceSettings

HOUR = 3600.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.write()
    return made


@pytest.fixture
def settings(world: World) -> ServiceSettings:
    return world.settings()


def test_a_new_schedule_does_not_run_the_past(
    database: Database, settings: ServiceSettings
) -> None:
    assert enqueue.begin(database, settings, FIRST_SEEN) == {}
    assert all_nights(database) == []
    assert enqueue.begin(database, settings, DUE - 1) == {}
    assert all_runs(database) == []


def test_at_the_due_time_every_guest_is_queued(
    database: Database, settings: ServiceSettings
) -> None:
    enqueue.begin(database, settings, FIRST_SEEN)
    enqueue.begin(database, settings, DUE + 5)
    assert all_nights(database) == [(DUE, "run")]
    queued = all_runs(database)
    assert sorted((run.host, run.guest) for run in queued) == [
        ("xen1", "web01"),
        ("xen1", "web02"),
        ("xen2", "db01"),
    ]
    for run in queued:
        assert (run.priority, run.origin) == (Priority.NIGHTLY, "schedule fleet")
        assert run.night == "fleet@2026-03-03T00:30Z"
        assert run.not_before <= database.now()
    assert guests_of(database, DUE) == {run.guest: run.id for run in queued}


def test_a_restart_changes_nothing(
    database: Database, database_url: str, settings: ServiceSettings
) -> None:
    enqueue.begin(database, settings, FIRST_SEEN)
    enqueue.begin(database, settings, DUE + 5)
    again = open_database(database_url)
    for passed in (6, 60, HOUR, 20 * HOUR):
        enqueue.begin(again, settings, DUE + passed)
    again.close()
    assert all_nights(database) == [(DUE, "run")]
    assert len(all_runs(database)) == 3
    enqueue.begin(database, settings, DUE + DAY)
    assert all_nights(database) == [(DUE, "run"), (DUE + DAY, "run")]


def test_beats_at_once_begin_a_night_once(
    database: Database,
    database_url: str,
    settings: ServiceSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All have seen that the night is due, and that nobody has begun it, before one writes."""
    enqueue.begin(database, settings, FIRST_SEEN)
    beats = 4
    together = threading.Barrier(beats, timeout=PATIENCE)
    members: Callable[..., Any] = enqueue._members

    def wait_for_the_others(*arguments: Any) -> Any:
        found = members(*arguments)
        together.wait()
        return found

    monkeypatch.setattr(enqueue, "_members", wait_for_the_others)
    several = [open_database(database_url) for _ in range(beats)]
    with ThreadPoolExecutor(beats) as pool:
        told = list(pool.map(lambda one: enqueue.begin(one, settings, DUE + 5), several))
    for one in several:
        one.close()
    assert told == [{}] * beats
    assert all_nights(database) == [(DUE, "run")]
    assert len(all_runs(database)) == 3
    assert len(guests_of(database, DUE)) == 3


def test_beats_at_once_see_a_new_schedule_once(
    database: Database, database_url: str, settings: ServiceSettings
) -> None:
    several = [open_database(database_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: enqueue.begin(one, settings, FIRST_SEEN), several))
    for one in several:
        one.close()
    enqueue.begin(database, settings, DUE + 5)
    assert all_nights(database) == [(DUE, "run")]


def test_all_of_a_night_is_written_or_nothing(
    database: Database, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue.begin(database, settings, FIRST_SEEN)
    queued = []
    real = enqueue.submit_in

    def killed_in_between(*arguments: Any) -> Any:
        if len(queued) == 2:
            raise KeyboardInterrupt
        queued.append(real(*arguments))
        return queued[-1]

    monkeypatch.setattr(enqueue, "submit_in", killed_in_between)
    with pytest.raises(KeyboardInterrupt):
        enqueue.begin(database, settings, DUE + 5)
    monkeypatch.undo()
    assert len(queued) == 2
    assert (all_nights(database), all_runs(database)) == ([], [])
    enqueue.begin(database, settings, DUE + 15)
    assert (len(all_nights(database)), len(all_runs(database))) == (1, 3)


def test_guests_begin_over_the_window(database: Database, world: World) -> None:
    world.write("a", "b", "c", "d", window="4h")
    settings = world.settings()
    enqueue.begin(database, settings, FIRST_SEEN)
    enqueue.begin(database, settings, DUE)
    begins = sorted(run.not_before - run.submitted for run in all_runs(database))
    assert [round(begin / HOUR, 1) for begin in begins] == [0.0, 1.0, 2.0, 3.0]


def test_a_missed_night_is_run_late_once(database: Database, settings: ServiceSettings) -> None:
    enqueue.begin(database, settings, FIRST_SEEN)
    enqueue.begin(database, settings, DUE + 3 * DAY + 5 * HOUR)
    assert all_nights(database) == [
        (DUE, "missed"),
        (DUE + DAY, "missed"),
        (DUE + 2 * DAY, "missed"),
        (DUE + 3 * DAY, "run"),
    ]
    assert len(all_runs(database)) == 3


def test_or_it_is_only_reported(database: Database, world: World) -> None:
    world.write(missed="report", tolerance="2h")
    settings = world.settings()
    enqueue.begin(database, settings, FIRST_SEEN)
    enqueue.begin(database, settings, DUE + 3 * HOUR)
    assert all_nights(database) == [(DUE, "missed")]
    assert all_runs(database) == []
    enqueue.begin(database, settings, DUE + DAY + HOUR)
    assert all_nights(database)[1:] == [(DUE + DAY, "run")], "that is not too late"


def test_a_changed_schedule_does_not_run_the_past_either(database: Database, world: World) -> None:
    enqueue.begin(database, world.settings(), FIRST_SEEN)
    place = world.folder / "scenarios/fleet/scenario.yaml"
    place.write_text(place.read_text().replace("30 1 * * *", "0 9 * * *"))  # 08:00 UTC
    enqueue.begin(database, world.settings(), FIRST_SEEN + HOUR)
    enqueue.begin(database, world.settings(), DUE + HOUR)
    assert all_nights(database) == []
    enqueue.begin(database, world.settings(), DUE + 8 * HOUR)
    assert all_nights(database) == [(DUE + 7.5 * HOUR, "run")]


def test_a_schedule_that_was_switched_off_missed_nothing(database: Database, world: World) -> None:
    settings = world.settings()
    enqueue.begin(database, settings, FIRST_SEEN)
    place = world.folder / "scenarios/fleet/scenario.yaml"
    schedule = place.read_text()
    place.write_text("upgrade: {what: security}\nlogin: {inject: true}\n")
    enqueue.begin(database, settings, FIRST_SEEN + HOUR)
    place.write_text(schedule)
    enqueue.begin(database, settings, DUE + HOUR)
    assert all_nights(database) == []
    enqueue.begin(database, settings, DUE + DAY)
    assert all_nights(database) == [(DUE + DAY, "run")]


def test_a_worker_without_the_scenario_switches_nothing_off(
    database: Database, world: World, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    without = World(tmp_path / "other").settings()
    enqueue.begin(database, world.settings(), FIRST_SEEN)
    enqueue.begin(database, without, DUE - 30)
    enqueue.begin(database, world.settings(), DUE + 5)
    assert all_nights(database) == [(DUE, "run")]


def signed_on(database: Database, *hosts: str) -> None:
    with database.write() as connection:
        connection.execute(
            insert(workers).values(
                name=f"worker-{'-'.join(hosts)}",
                hosts=list(hosts),
                slots=1,
                version="1",
                state="up",
                started=database.now(),
                seen=database.now(),
            )
        )


def test_hosts_that_only_other_workers_know_have_their_guests_rehearsed(
    database: Database, world: World
) -> None:
    """Whose inventory lacks them may be who hears the tick."""
    world.write("{guest: web01, host: xen7}")
    signed_on(database, "xen7")
    settings = world.settings()
    enqueue.begin(database, settings, FIRST_SEEN)
    enqueue.begin(database, settings, DUE + 5)
    (run,) = all_runs(database)
    assert (run.host, run.guest) == ("xen7", "web01")


def test_on_which_host_a_guest_is_does_not_depend_on_who_hears_the_tick(
    database: Database, world: World
) -> None:
    world.write("web01")
    place = world.folder / "scenarios/fleet/scenario.yaml"
    place.write_text(place.read_text().replace("  host: xen1\n", ""))
    mine = replace(world.settings().sandbox, hosts=None, uri="qemu:///system", own_name="beatbox")
    settings = replace(world.settings(), sandbox=mine)
    signed_on(database, "xen7")
    enqueue.begin(database, settings, FIRST_SEEN)
    enqueue.begin(database, settings, DUE + 5)
    assert [run.host for run in all_runs(database)] == ["xen7"], "there is no other"
    signed_on(database, "xen8")
    enqueue.begin(database, settings, DUE + DAY)
    assert guests_of(database, DUE + DAY) == {"web01": None}
    night = read_night(database, "fleet", DUE + DAY)
    assert "does not say on which host" in night.guests[0].reason


def test_an_open_run_is_joined_and_counted(database: Database, settings: ServiceSettings) -> None:
    request = Request("fleet", guest="web01", host="xen1")
    order = order_of(prepare(request, settings.sandbox), request, settings)
    asked = submit(database, order).run_id
    enqueue.begin(database, settings, FIRST_SEEN)
    enqueue.begin(database, settings, DUE + 5)
    assert len(all_runs(database)) == 3
    assert guests_of(database, DUE)["web01"] == asked
    enqueue.begin(database, settings, DUE + DAY)
    assert len(all_runs(database)) == 3, "those of the night before are still open"
    assert guests_of(database, DUE + DAY) == guests_of(database, DUE)


def test_a_guest_that_cannot_be_asked_for_keeps_nobody_waiting(
    database: Database, world: World
) -> None:
    world.write("web01", "{guest: web02, host: xen9}")
    settings = world.settings()
    enqueue.begin(database, settings, FIRST_SEEN)
    enqueue.begin(database, settings, DUE + 5)
    (run,) = all_runs(database)
    assert guests_of(database, DUE) == {"web01": run.id, "web02": None}


def test_a_broken_schedule_keeps_no_other_waiting_and_is_named(
    database: Database, world: World
) -> None:
    world.write(name="another", tolerance="soon")
    settings = world.settings()
    enqueue.begin(database, settings, FIRST_SEEN)
    problems = enqueue.begin(database, settings, DUE + 5)
    assert list(problems) == ["another"]
    assert "schedule.tolerance" in problems["another"]
    assert len(all_runs(database)) == 3
    world.write(name="another")
    enqueue.begin(database, settings, DUE + HOUR)
    assert len(all_nights(database)) == 1, "it begins anew"
