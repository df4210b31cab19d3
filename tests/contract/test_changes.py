"""A verdict that is another than before is told of once, by real HTTP; on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from sandbox.core.errors import RequestError
from sandbox.scenario import load_scenario
from tests.support.service.nights_world import DAY, DUE, FIRST_SEEN, Hook, World, rehearse, web_hook
from workers.database import Database
from workers.database.schema import news, night_guests
from workers.notifications import delivery, verdict_changes
from workers.notifications.delivery import PAUSES
from workers.queue.orders import digest
from workers.queue.submission import submit
from workers.queue.values import Order
from workers.schedule import enqueue, night_reports
from workers.settings import ServiceSettings, read_service_settings
from workers.worker import housekeeping


@pytest.fixture(scope="module")
def receiver() -> Iterator[Hook]:
    with web_hook() as there:
        yield there


@pytest.fixture
def hook(receiver: Hook) -> Hook:
    receiver.got.clear()
    receiver.answers.clear()
    receiver.refused = 0
    return receiver


@pytest.fixture
def settings(tmp_path: Path, hook: Hook) -> ServiceSettings:
    return World(tmp_path, notify=(hook.url,)).settings()


def rehearsed(database: Database, verdict: str, **more: Any) -> str:
    run_id = submit(database, Order("security", "web01", "xen1", **more)).run_id
    rehearse(database, web01=verdict)
    return run_id


def told(
    database: Database, settings: ServiceSettings, hook: Hook, later: float = 0.0
) -> list[str]:
    """The titles of what came since, after a tick."""
    hook.got.clear()
    verdict_changes.look(database, settings)
    verdict_changes.send(database, settings, database.now() + later)
    return [str(one["title"]) for one in hook.got]


def left(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(news)).scalar_one())


def test_a_change_is_told_and_nothing_else(
    database: Database, settings: ServiceSettings, hook: Hook
) -> None:
    rehearsed(database, "pass")
    assert told(database, settings, hook) == []  # there was none before
    rehearsed(database, "pass")
    assert told(database, settings, hook) == []
    run_id = rehearsed(database, "fail", origin="api @everyone (1)")
    assert told(database, settings, hook) == ["web01 on xen1: pass → fail (security)"]
    body = str(hook.got[0]["message"])
    assert body.startswith("web01 on xen1 may not be upgraded: nginx does not start")
    assert f"run:      {run_id}" in body
    assert "before:   pass, " in body
    assert "@everyone" not in body
    assert told(database, settings, hook) == []
    rehearsed(database, "inconclusive", upgrade="nginx")  # another question
    assert told(database, settings, hook) == []
    rehearsed(database, "pass")
    assert told(database, settings, hook) == ["web01 on xen1: fail → pass (security)"]
    assert left(database) == 0


def test_every_run_or_none(database: Database, settings: ServiceSettings, hook: Hook) -> None:
    rehearsed(database, "pass")
    every = replace(settings, notify_on="every")
    assert told(database, every, hook) == ["web01 on xen1: pass (security)"]
    rehearsed(database, "fail")
    assert told(database, replace(settings, notify_on="never"), hook) == []
    assert told(database, settings, hook) == []  # not later either
    rehearsed(database, "pass")
    assert told(database, replace(settings, notify=()), hook) == []
    assert left(database) == 0


def test_the_runs_of_a_night_are_told_of_by_its_summary(
    database: Database, tmp_path: Path, hook: Hook
) -> None:
    world = World(tmp_path, notify=(hook.url,))
    world.write("web01", "web02")
    settings = replace(world.settings(), notify_on="every")
    enqueue.begin(database, settings, FIRST_SEEN)
    enqueue.begin(database, settings, DUE)
    rehearse(database, web02="fail")
    assert told(database, settings, hook) == []
    assert left(database) == 0
    # One that the next night joins.
    folders = settings.sandbox
    scenario = load_scenario(folders.scenarios[0] / "fleet", shared=folders.shared_checks)
    content = digest(scenario)
    joined = submit(database, Order("fleet", "web01", "xen1", content=content)).run_id
    enqueue.begin(database, settings, DUE + DAY)
    with database.read() as connection:
        known = select(night_guests.c.run_id).where(night_guests.c.due == DUE + DAY)
        assert joined in set(connection.execute(known).scalars())
    rehearse(database, web01="fail")
    assert told(database, settings, hook) == []
    night_reports.close(database, DUE + DAY)
    night_reports.send(database, settings, DUE + DAY)
    assert any("web01" in str(one["message"]) for one in hook.got)


def test_a_target_that_does_not_answer_is_tried_again(
    database: Database, settings: ServiceSettings, hook: Hook
) -> None:
    rehearsed(database, "pass")
    rehearsed(database, "fail")
    hook.answers += [500] * 2
    assert told(database, settings, hook) == []
    assert told(database, settings, hook) == []  # not at once
    assert hook.refused == 1
    assert told(database, settings, hook, PAUSES[0] + 1) == []
    assert len(told(database, settings, hook, PAUSES[0] + PAUSES[1] + 2)) == 1
    assert (hook.refused, left(database)) == (2, 0)


def test_a_sender_that_is_killed_loses_nothing(
    database: Database, settings: ServiceSettings, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed(database, "pass")
    rehearsed(database, "fail")

    def killed(*_: object) -> str:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(delivery, "send", killed)
        with pytest.raises(SystemExit):
            told(database, settings, hook)
    assert told(database, settings, hook, PAUSES[0] + 1) == [
        "web01 on xen1: pass → fail (security)"
    ]


def test_many_ticks_at_once_tell_it_once(
    database: Database, settings: ServiceSettings, hook: Hook
) -> None:
    rehearsed(database, "pass")
    rehearsed(database, "fail")

    def tick(_number: int) -> None:
        housekeeping.tick(database, settings, lambda *_: None, lambda _: None)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(tick, range(8)))
    assert [one["title"] for one in hook.got] == ["web01 on xen1: pass → fail (security)"]


def test_when_it_is_told_is_one_of_three_words() -> None:
    assert read_service_settings({}).notify_on == "change"
    with pytest.raises(RequestError, match="NOTIFY_ON is none of change, every, never: 'always'"):
        read_service_settings({"SANDBOX_SERVICE_NOTIFY_ON": "always"})
