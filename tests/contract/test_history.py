"""What is remembered of checks over runs, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import IntegrityError

import workers.database
from sandbox.core.errors import HostError
from sandbox.core.records import Past, Verdict
from sandbox.core.settings import Settings
from sandbox.verdict.flakiness import Rate
from tests.support.service.api_world import Api, api
from tests.support.service.ledger_world import PASS, order, take, taken
from workers.artifacts import retention
from workers.database import Database, migrate, open_database, require_schema
from workers.database.clock import now
from workers.database.schema import check_results, runs
from workers.database.states import RunState
from workers.queue.history import LAST, CheckHistory, Mark, history, past_of
from workers.queue.leases import LeaseLost, claim, finish
from workers.queue.reclaim import sweep
from workers.queue.submission import submit
from workers.queue.values import Claim, Order, Outcome, Tally
from workers.settings import ServiceSettings
from workers.worker.attempt import work_off

DAY = 86400.0
HTTP, PORTS = "test_web.py::test_http", "shared/ports.py::test_ports"


def tally(
    before: tuple[int, int] = (1, 1),
    after: tuple[int, int] = (1, 1),
    control: tuple[int, int] = (3, 3),
    name: str = HTTP,
) -> Tally:
    return Tally(name, Rate(*before), Rate(*after), Rate(*control))


def ended(
    database: Database,
    *tallies: Tally,
    guest: str = "web01",
    host: str = "xen1",
    scenario: str = "security",
    days: float = 0.0,
) -> str:
    """A run that ended so many days ago; its id."""
    submit(database, Order(scenario, guest, host, fresh=True))
    held = claimed(database, host)
    finish(database, held, replace(PASS, checks=tallies))
    with database.write() as connection:
        mine = check_results.c.run_id == held.run_id
        then = now() - days * DAY - 1
        connection.execute(update(check_results).where(mine).values(finished=then))
    return held.run_id


def claimed(database: Database, host: str) -> Claim:
    held = claim(database, host, "worker-a", 60.0, None)
    assert held is not None
    return held


def only(database: Database, guest: str = "web01", **which: str) -> CheckHistory:
    (one,) = history(database, guest, **which).items  # type: ignore[arg-type]
    return one


def rows(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(check_results)).scalar_one())


# -- written ----------------------------------------------------------------------------------


def test_it_is_written_with_the_verdict(database: Database) -> None:
    run_id = ended(database, tally(control=(2, 3)), tally(name=PORTS))
    http = only(database, part="test_http")
    assert (http.host, http.guest, http.name) == ("xen1", "web01", HTTP)
    assert (http.scenario, http.runs, http.not_upgraded, http.upgraded) == (
        "security",
        1,
        Rate(3, 4),
        Rate(1, 1),
    )
    assert [(seen.run_id, seen.mark) for seen in http.last] == [(run_id, Mark.FLAKY)]
    assert http.last_failed == http.last[0]
    assert http.since == http.last[0].at
    ports = only(database, part="ports")
    assert (ports.scenario, ports.last_failed) == ("", None)


def test_a_lost_attempt_writes_nothing(database: Database) -> None:
    submit(database, order())
    lost = taken(database, lease=0.0)
    sweep(database, grace=0.0)
    with database.write() as connection:
        connection.execute(update(runs).values(not_before=0.0))
    held = take(database)
    assert held is not None
    with pytest.raises(LeaseLost):
        finish(database, lost, replace(PASS, checks=(tally(after=(0, 3)),)))
    assert rows(database) == 0
    finish(database, held, replace(PASS, checks=(tally(),)))
    assert only(database).upgraded == Rate(1, 1)
    with pytest.raises(LeaseLost):  # nor is it counted twice
        finish(database, held, replace(PASS, checks=(tally(after=(0, 3)),)))
    assert only(database).runs == 1


def test_an_attempt_that_is_tried_again_has_no_verdict_and_no_history(database: Database) -> None:
    submit(database, order(most_attempts=2))
    broken = Outcome(Verdict.ERROR, "the mirror is away", checks=(tally(after=(0, 0)),))
    assert finish(database, taken(database), broken) is RunState.QUEUED
    assert rows(database) == 0
    with database.write() as connection:
        connection.execute(update(runs).values(not_before=0.0))
    assert finish(database, taken(database), broken) is RunState.FINISHED
    assert only(database).not_upgraded == Rate(4, 4)


def test_a_history_that_cannot_be_written_keeps_the_verdict_from_being_half_there(
    database: Database,
) -> None:
    submit(database, order())
    held = taken(database)
    with pytest.raises(IntegrityError):
        finish(database, held, replace(PASS, checks=(tally(), tally())))
    with database.read() as connection:
        assert connection.execute(select(runs.c.state)).scalar_one() == "running"
    assert finish(database, held, replace(PASS, checks=(tally(),))) is RunState.FINISHED


# -- read -------------------------------------------------------------------------------------


def test_the_least_steady_come_first_and_all_are_counted(database: Database) -> None:
    for _ in range(3):
        ended(database, tally(), tally(name="t.py::b", after=(0, 3)), tally(name=PORTS))
    ended(database, tally(name="t.py::c", control=(2, 3)), tally(name="t.py::d", before=(0, 1)))
    found = history(database, "web01")
    names = [one.name for one in found.items]
    assert names == ["t.py::c", "t.py::d", "t.py::b", PORTS, HTTP]
    assert found.total == 5
    first = history(database, "web01", limit=2)
    assert ([one.name for one in first.items], first.total) == (names[:2], 5)
    assert history(database, "web02").items == ()
    assert history(database, "web01", host="xen2").items == ()
    assert [one.name for one in history(database, "web01", names=[PORTS]).items] == [PORTS]
    assert history(database, "web01", names=[]).items == ()
    (short,) = history(database, "web01", names=["t.py::c"], with_runs=False).items
    assert (short.runs, short.last, short.last_failed) == (1, (), None)
    assert history(database, "web01", part="100%").items == ()


def test_the_last_runs_are_told_oldest_first_and_the_last_failure_however_old(
    database: Database,
) -> None:
    red = ended(database, tally(after=(0, 3)), days=29)
    newer = [ended(database, tally(), days=28 - day) for day in range(LAST + 2)]
    one = only(database)
    assert [seen.run_id for seen in one.last] == newer[-LAST:]
    assert {seen.mark for seen in one.last} == {Mark.HELD}
    assert one.last_failed is not None
    assert (one.last_failed.run_id, one.last_failed.mark) == (red, Mark.BROKE)
    assert (one.runs, one.upgraded) == (LAST + 3, Rate(LAST + 2, LAST + 5))
    assert one.since == one.last_failed.at


def test_what_was_broken_all_the_time_is_not_flaky(database: Database) -> None:
    ended(database, tally(), days=3)
    for day in (1, 2):
        ended(database, tally(before=(0, 1), control=(0, 3), after=(0, 0)), days=day)
    one = only(database)
    assert (one.not_upgraded, one.broken_runs) == (Rate(4, 4), 2)
    assert [seen.mark for seen in one.last] == [Mark.HELD, Mark.BROKEN, Mark.BROKEN]
    assert past_of(database, held_of(database)) == {}


def held_of(database: Database, guest: str = "web01", scenario: str = "security") -> Claim:
    submit(database, Order(scenario, guest, "xen1", fresh=True))
    return claimed(database, "xen1")


def test_a_verdict_knows_what_failed_before_of_the_same_guest_and_check(
    database: Database,
) -> None:
    for _ in range(2):
        ended(database, tally(control=(1, 3), after=(0, 3)), tally(name="t.py::steady"))
    ended(database, tally(control=(0, 1)), guest="web02")
    ended(database, tally(control=(0, 1)), host="xen2")
    ended(database, tally(control=(0, 2)), tally(name=PORTS, control=(0, 1)), scenario="kernel")
    held = held_of(database)
    assert past_of(database, held) == {
        HTTP: Past(held=4, asked=8),
        PORTS: Past(held=1, asked=2),  # the same check in all scenarios
    }
    found = history(database, "web01", host="xen1", part="http").items
    assert {one.scenario: one.runs for one in found} == {"security": 2, "kernel": 1}
    assert {one.host for one in history(database, "web01", part="http").items} == {"xen1", "xen2"}


@dataclass
class Asking:
    """An executor that remembers what it was told of the past."""

    left: bool = False
    heard: list[Mapping[str, Past]] = field(default_factory=list)

    def run(self, claim: Claim, tell: object, folder: Callable[[str], None]) -> Outcome:
        self.heard.append(claim.past)
        return replace(PASS, checks=(tally(control=(2, 3)),))

    def reap(self, host: str) -> tuple[str, ...]:
        return ()


def test_each_run_is_told_of_those_before_it(database: Database) -> None:
    executor = Asking()
    for _ in range(3):
        assert work_off(database, held_of(database), executor, 60.0) is RunState.FINISHED
    assert executor.heard == [
        {},
        {HTTP: Past(held=3, asked=4)},
        {HTTP: Past(held=6, asked=8)},
    ]


def test_a_past_that_cannot_be_read_keeps_no_run_from_being_rehearsed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise HostError("the database is away", "wait")

    ended(database, tally(control=(0, 2)))
    held, executor = held_of(database), Asking()
    monkeypatch.setattr("workers.worker.attempt.past_of", away)
    assert work_off(database, held, executor, 60.0) is RunState.FINISHED
    assert executor.heard == [{}]


# -- forgotten, and before it was remembered --------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> ServiceSettings:
    broker = "redis+socket:///nowhere"
    return ServiceSettings(database=database_url, broker=broker, sandbox=Settings(state=tmp_path))


def test_it_is_forgotten_with_the_events(database: Database, settings: ServiceSettings) -> None:
    for days in (40, 31, 29, 1):
        ended(database, tally(), tally(name=PORTS), days=days)
    retention.expire(database, replace(settings, keep_days=30.0))
    assert only(database, part="http").runs == 2
    assert rows(database) == 4
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(runs)).scalar_one() == 4


def test_a_turn_of_forgetting_is_bounded(
    database: Database, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MOST_PRUNED", 3)
    for days in (50, 40, 35):
        ended(database, tally(), tally(name=PORTS), days=days)
    retention.expire(database, settings)
    assert (rows(database), only(database, part="http").runs) == (2, 1)  # the oldest two went
    retention.expire(database, settings)
    assert rows(database) == 0


@pytest.fixture
def older(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database as the version before had it."""
    from alembic import command

    opened = open_database(database_url)
    with opened.engine.begin() as connection:
        command.upgrade(workers.database._alembic(connection), "0001")
    yield opened
    opened.close()


def test_a_database_of_before_is_upgraded_with_a_run_in_hand(older: Database) -> None:
    run_id = submit(older, order()).run_id
    held = taken(older)
    migrate(older)
    require_schema(older)
    assert finish(older, held, replace(PASS, checks=(tally(),))) is RunState.FINISHED
    assert [seen.run_id for seen in only(older).last] == [run_id]
    with older.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM attempts")).scalar_one() == 1


# -- by the HTTP API --------------------------------------------------------------------------


@pytest.fixture
def served(database_url: str) -> Iterator[Api]:
    with api(DATABASE=database_url) as one:
        yield one


def test_the_api_tells_it(served: Api) -> None:
    database = served.there.database
    ended(database, tally(), tally(name=PORTS), days=2)
    run_id = ended(database, tally(control=(1, 3), after=(0, 3)), days=1)
    told = served.ask("/v1/checks?guest=web01&host=xen1&check=test_http")
    assert told.status == 200, told
    assert told.json["total"] == 1
    (one,) = told.json["items"]
    assert (one["name"], one["scenario"], one["runs"]) == (HTTP, "security", 2)
    assert one["not_upgraded"] == {"held": 6, "asked": 8}
    assert one["upgraded"] == {"held": 1, "asked": 4}
    assert [seen["outcome"] for seen in one["last"]] == ["held", "flaky"]
    assert one["last_failed"]["run"] == run_id
    both = served.ask("/v1/checks?guest=web01&limit=1").json
    assert (len(both["items"]), both["total"]) == (1, 2)
    assert served.ask("/v1/checks?guest=nobody").json == {"items": [], "total": 0}
    assert served.ask("/v1/checks").status == 422
    assert served.ask("/v1/checks?guest=web01", None).status == 401
