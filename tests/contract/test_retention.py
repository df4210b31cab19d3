"""What is copied, what expires and what stays, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, func, insert, select, update

from sandbox.core.deadline import Deadline
from sandbox.core.records import Verdict
from sandbox.core.settings import Settings
from sandbox.core.store import Store
from tests.support.service.servers import short_folder
from workers.artifacts import retention
from workers.artifacts.places import Folder
from workers.artifacts.worker_folders import Keeping, environment, keep, keep_attempt
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import attempts, counters, events, runs, verdicts
from workers.database.states import RunState
from workers.queue import reading
from workers.queue.events import say
from workers.queue.leases import claim
from workers.queue.submission import submit
from workers.queue.values import Claim, NotNow, Order, Outcome
from workers.settings import ServiceSettings, read_service_settings
from workers.worker import housekeeping
from workers.worker.attempt import work_off
from workers.worker.executor import Executor
from workers.worker.rehearsal_executor import RehearsalExecutor

DAY = 86400.0
MIB = 1 << 20


@dataclass
class Writing:
    """An executor that leaves a record's folder, as a rehearsal does."""

    settings: Settings
    size: int = 100
    keeps: bool = False  # the clone stays

    def run(self, claim: Claim, tell: object, folder: Callable[[str], None]) -> Outcome:
        place = Store(self.settings).create()
        folder(place.id)
        (place.artifacts / "console.log").write_bytes(b"x" * self.size)
        (place.artifacts / "run.json").write_text("{}")
        if not self.keeps:
            place.remove_clone()
        return Outcome(Verdict.PASS, "all is well", {"packages": [["nginx", "1", "2"]]})

    def reap(self, host: str) -> tuple[str, ...]:
        return ()


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Iterator[ServiceSettings]:
    with short_folder("sbkeep-") as state:
        yield ServiceSettings(
            database=database_url,
            broker="redis+socket:///nowhere",
            sandbox=Settings(state=state),
            artifacts=str(tmp_path / "place"),
        )


def take(database: Database, guest: str = "web01") -> Claim:
    submit(database, Order(scenario="security", guest=guest, host="xen1"))
    held = claim(database, "xen1", "worker-a", 60.0, None)
    assert held is not None
    return held


def rehearsed(
    database: Database, settings: ServiceSettings, executor: Executor | None = None, days: float = 0
) -> Row[Any]:
    """The attempt of a run that ended so many days ago; nothing was copied yet."""
    held = take(database)
    work_off(database, held, executor or Writing(settings.sandbox), 60.0)
    with database.write() as connection:
        for table, mine in ((attempts, attempts.c.run_id), (runs, runs.c.id)):
            connection.execute(
                update(table).where(mine == held.run_id).values(ended=now() - days * DAY - 120)
            )
        connection.execute(
            update(events).where(events.c.run_id == held.run_id).values(at=now() - days * DAY - 120)
        )
    return attempt(database, held.run_id)


def attempt(database: Database, run_id: str) -> Row[Any]:
    with database.read() as connection:
        return connection.execute(select(attempts).where(attempts.c.run_id == run_id)).one()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def count_of(database: Database, table: Any) -> int:
    with database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


# -- copied -----------------------------------------------------------------------------------


def test_an_attempts_artifacts_are_copied_when_it_has_ended(
    database: Database, settings: ServiceSettings
) -> None:
    held = take(database)
    work_off(database, held, Writing(settings.sandbox), 60.0)
    keep_attempt(database, settings, held)
    row = attempt(database, held.run_id)
    assert (row.artifacts, row.bytes) == ("stored", 102)
    stored = Folder(Path(settings.artifacts)).files(row.folder)
    assert [one.name for one in stored] == ["console.log", "run.json"]


def test_a_place_that_is_away_changes_no_verdict_and_is_tried_again(
    database: Database, settings: ServiceSettings, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    away = replace(settings, artifacts=str(tmp_path / "file" / "place"))
    held = take(database)
    work_off(database, held, Writing(settings.sandbox), 60.0)
    keep_attempt(database, away, held)
    keep(database, away)
    assert reading.get(database, held.run_id).verdict is Verdict.PASS
    assert attempt(database, held.run_id).artifacts == ""
    keep(database, settings)  # the attempt's own process may still be at it
    assert attempt(database, held.run_id).artifacts == ""
    with database.write() as connection:
        connection.execute(update(attempts).values(ended=now() - 120))
    keep(database, settings)
    assert attempt(database, held.run_id).artifacts == "stored"


def test_only_queued_runs_that_are_over_are_touched(
    database: Database, settings: ServiceSettings
) -> None:
    """Neither a run whose clone is kept or still to be reaped, nor one of `sandbox run`."""
    kept = rehearsed(database, settings, Writing(settings.sandbox, keeps=True), days=99)
    own = Store(settings.sandbox).create()
    own.remove_clone()
    (own.artifacts / "run.json").write_text("{}")
    running = take(database, "db01")
    live = Store(settings.sandbox).create()
    live.remove_clone()
    with database.write() as connection:
        connection.execute(
            update(attempts).where(attempts.c.run_id == running.run_id).values(folder=live.id)
        )
    keep(database, replace(settings, keep_days=0.0, keep_bytes=1))
    assert names(settings.sandbox.runs) == {kept.folder, own.id, live.id}
    assert names(Path(settings.artifacts)) == set()


def test_without_a_place_artifacts_stay_on_their_worker(
    database: Database, settings: ServiceSettings
) -> None:
    here = replace(settings, artifacts="")
    row = rehearsed(database, here)
    keep(database, here)
    assert attempt(database, row.run_id).artifacts == ""
    assert names(here.sandbox.runs) == {row.folder}


def test_a_worker_does_it_now_and_then_in_a_process_of_its_own(
    database: Database, settings: ServiceSettings
) -> None:
    row = rehearsed(database, settings)
    keeping = Keeping(settings, first=0.0)
    keeping.start()
    try:
        deadline = Deadline(120, "copying")
        while attempt(database, row.run_id).artifacts != "stored":
            deadline.sleep(0.2)
    finally:
        keeping.stop()
    assert keeping._process is not None
    assert keeping._process.poll() is not None
    assert not keeping._thread.is_alive()


def test_that_process_is_told_all_that_it_needs(settings: ServiceSettings) -> None:
    given = replace(settings, keep_days=7.5, keep_bytes=64 * MIB, s3_endpoint="http://127.0.0.1:9")
    read = read_service_settings(environment(given))
    for name in ("database", "artifacts", "s3_endpoint", "keep_days", "keep_bytes"):
        assert getattr(read, name) == getattr(given, name)
    assert read.sandbox.state == given.sandbox.state


# -- expired ----------------------------------------------------------------------------------


def test_old_artifacts_go_everywhere_and_their_evidence_stays(
    database: Database, settings: ServiceSettings
) -> None:
    old, young = (rehearsed(database, settings, days=days) for days in (20, 2))
    keep(database, settings)
    assert names(Path(settings.artifacts)) == {old.folder, young.folder}
    shorter = replace(settings, keep_days=10.0)
    keep(database, shorter)
    retention.expire(database, shorter)
    assert names(settings.sandbox.runs) == names(Path(settings.artifacts)) == {young.folder}
    assert attempt(database, old.run_id).artifacts == "expired"
    assert attempt(database, young.run_id).artifacts == "stored"
    assert reading.get(database, old.run_id).verdict is Verdict.PASS
    with database.read() as connection:
        found = connection.execute(
            select(verdicts.c.evidence).where(verdicts.c.run_id == old.run_id)
        ).scalar_one()
    assert found == {"packages": [["nginx", "1", "2"]]}
    retention.expire(database, shorter)  # once more changes nothing
    assert names(Path(settings.artifacts)) == {young.folder}


def test_too_much_goes_oldest_first(database: Database, settings: ServiceSettings) -> None:
    rows = [rehearsed(database, settings, days=days) for days in (1, 4, 2, 3)]
    keep(database, settings)
    small = replace(settings, keep_bytes=250)  # room for two of 102 bytes
    keep(database, small)
    retention.expire(database, small)
    newest = {rows[0].folder, rows[2].folder}
    assert names(settings.sandbox.runs) == newest
    assert names(Path(settings.artifacts)) == newest


def test_what_expires_before_it_was_copied_is_not_copied(
    database: Database, settings: ServiceSettings
) -> None:
    row = rehearsed(database, settings, days=40)
    keep(database, settings)
    assert names(settings.sandbox.runs) == names(Path(settings.artifacts)) == set()
    assert attempt(database, row.run_id).artifacts == "expired"


def test_events_of_runs_that_ended_long_ago_are_pruned(
    database: Database, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PORTION", 4)
    waiting = submit(database, Order(scenario="kernel", guest="web09", host="xen9")).run_id
    with database.write() as connection:
        for number in range(6):
            say(connection, waiting, "detail", str(number))
        connection.execute(update(events).values(at=now() - 50 * DAY))
    old = [rehearsed(database, settings, days=40) for _ in range(3)]
    young = rehearsed(database, settings, days=1)
    before = len(reading.events_after(database, young.run_id))
    runs_before = count_of(database, runs), count_of(database, attempts)
    assert retention.prune_events(database, 30.0) == 3 * before
    for row in old:
        assert reading.events_after(database, row.run_id) == ()
    assert len(reading.events_after(database, young.run_id)) == before
    assert len(reading.events_after(database, waiting)) == 7  # however long ago
    assert (count_of(database, runs), count_of(database, attempts)) == runs_before
    assert retention.prune_events(database, 30.0) == 0


def test_a_turn_is_bounded(
    database: Database, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PORTION", 10)
    monkeypatch.setattr(retention, "MOST_PRUNED", 20)
    monkeypatch.setattr(retention, "MOST_REMOVED", 2)
    row = rehearsed(database, settings, days=40)
    with database.write() as connection:
        many = {"run_id": row.run_id, "at": 0.0, "kind": "detail", "text": ""}
        connection.execute(insert(events), [many] * 50)
        stored = {"run_id": row.run_id, "owner": "", "started": 0.0, "ended": 0.0}
        rows = [{**stored, "fence": n, "folder": f"r{n}", "artifacts": "stored"} for n in (8, 9, 7)]
        connection.execute(insert(attempts), rows)
    assert retention.prune_events(database, 30.0) == 20
    assert len(retention.expire_stored(database, Folder(Path(settings.artifacts)), settings)) == 2
    assert len(retention.expire_stored(database, Folder(Path(settings.artifacts)), settings)) == 1


def test_whoever_ticks_it_is_done_every_ten_minutes(
    database: Database, settings: ServiceSettings
) -> None:
    def tick() -> None:
        housekeeping.tick(database, settings, lambda host, count: None, lambda host: None)

    rehearsed(database, settings, days=40)
    before = count_of(database, events)
    tick()
    pruned = count_of(database, events)
    assert pruned < before
    rehearsed(database, settings, days=40)
    tick()
    assert count_of(database, events) == before  # not again so soon
    with database.write() as connection:
        connection.execute(
            update(counters).where(counters.c.name == "expired_at").values(value=now() - 700)
        )
    tick()
    assert count_of(database, events) == pruned


# -- no room ----------------------------------------------------------------------------------


def test_a_run_waits_while_the_workers_disk_is_full(
    database: Database, settings: ServiceSettings
) -> None:
    greedy = replace(settings, keep_free=1 << 60)
    held = take(database)
    assert work_off(database, held, RehearsalExecutor(greedy), 60.0) is RunState.QUEUED
    row = reading.get(database, held.run_id)
    assert (row.state, row.attempts) == (RunState.QUEUED, 0)
    assert "MiB free" in row.waiting


def test_a_run_waits_while_artifacts_take_more_than_they_may(settings: ServiceSettings) -> None:
    small = replace(settings, keep_bytes=MIB, keep_free=0)
    retention.require_room(small)  # not even a state folder yet
    place = Store(small.sandbox).create()
    (place.artifacts / "memory").write_bytes(b"\0" * (MIB + 1))
    with pytest.raises(NotNow, match="artifacts take"):
        retention.require_room(small)
    retention.require_room(replace(small, keep_bytes=2 * MIB))
