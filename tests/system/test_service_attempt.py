"""One attempt under its lease: how each end of it is written down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import select, update

from sandbox.core.errors import HostError, RequestError
from sandbox.core.records import Verdict
from workers.database import Database, migrate, open_database
from workers.database.schema import attempts, runs
from workers.database.states import RunState
from workers.queue import leases, reading
from workers.queue.leases import claim
from workers.queue.reclaim import sweep
from workers.queue.submission import cancel, submit
from workers.queue.values import Claim, NotNow, Order, Outcome
from workers.worker.attempt import work_off
from workers.worker.executor import Teller

LEASE = 2.0  # seconds: long enough for a busy machine to keep it
PATIENCE = 60.0  # seconds that an executor waits for its interruption
PASS = Outcome(Verdict.PASS, "fine")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/truth.db")
    migrate(opened)
    yield opened
    opened.close()


@dataclass
class Scripted:
    """An executor that does what the test says, and notes that it cleaned up."""

    act: Callable[[Claim, Teller], Outcome]
    cleaned: list[str] = field(default_factory=list)
    begun: bool = False

    def run(self, claim: Claim, tell: Teller, folder: Callable[[str], None]) -> Outcome:
        self.begun = True
        folder(f"record-{claim.fence}")
        try:
            return self.act(claim, tell)
        finally:
            self.cleaned.append(claim.run_id)

    def reap(self, host: str) -> tuple[str, ...]:
        return ()


def held(database: Database, lease: float = 60.0) -> Claim:
    submit(database, Order("security", "web01", "xen1"))
    taken = claim(database, "xen1", "me", lease, None)
    assert taken is not None
    return taken


def until_interrupted(_claim: Claim, _tell: Teller) -> Outcome:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        time.sleep(0.01)
    return PASS


def test_a_verdict_is_written_with_where_its_record_is(database: Database) -> None:
    run = held(database)

    def act(_claim: Claim, tell: Teller) -> Outcome:
        tell("phase", "boot")
        return PASS

    assert work_off(database, run, Scripted(act), 60.0) is RunState.FINISHED
    done = reading.get(database, run.run_id)
    assert (done.verdict, done.reason, done.phase) == (Verdict.PASS, "fine", "boot")
    with database.read() as connection:
        (row,) = connection.execute(select(attempts))
    assert (row.folder, row.outcome) == ("record-1", "pass")


def test_a_detail_is_not_told_twice_in_a_row(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.worker.attempt._TELL_EVERY", 0.0)
    run = held(database)

    def act(_claim: Claim, tell: Teller) -> Outcome:
        tell("phase", "upgrade")
        for percent in (1.0, 1.2, 2.0, 2.0, 1.0):
            tell("detail", "fetching", percent)
        tell("phase", "upgrade")
        tell("detail", "fetching", 1.0)
        return PASS

    work_off(database, run, Scripted(act), 60.0)
    told = [event for event in reading.events_after(database, run.run_id) if event.kind == "detail"]
    assert [event.percent for event in told] == [1.0, 2.0, 1.0, 1.0]


def test_a_lease_outlasts_work_that_takes_longer(database: Database) -> None:
    run = held(database, lease=4.0)

    def act(_claim: Claim, _tell: Teller) -> Outcome:
        for _ in range(12):
            time.sleep(0.5)
            assert sweep(database).queued == ()
        return PASS

    assert work_off(database, run, Scripted(act), 4.0) is RunState.FINISHED


def test_what_a_slow_database_gave_too_late_is_not_begun(database: Database) -> None:
    """Its lease may have run out while the answer was on its way: somebody else has it then."""
    run, executor = held(database, lease=4.0), Scripted(lambda *_: PASS)
    assert work_off(database, run, executor, 4.0, claimed=time.monotonic() - 3.5) is None
    assert executor.cleaned == [], "nothing was made"
    assert (
        work_off(database, run, executor, 4.0, claimed=time.monotonic() - 1.0) is RunState.FINISHED
    )


def test_a_cancelled_run_is_interrupted_and_cleaned_up(database: Database) -> None:
    run = held(database)

    def act(claim: Claim, tell: Teller) -> Outcome:
        cancel(database, claim.run_id, "anna")
        return until_interrupted(claim, tell)

    executor = Scripted(act)
    assert work_off(database, run, executor, LEASE) is RunState.CANCELLED
    assert executor.cleaned == [run.run_id]
    assert reading.get(database, run.run_id).verdict is None


def test_a_drained_worker_gives_its_run_back(database: Database) -> None:
    run = held(database)
    executor = Scripted(until_interrupted)
    assert (
        work_off(database, run, executor, LEASE, drained=lambda: executor.begun) is RunState.QUEUED
    )
    waits = reading.get(database, run.run_id)
    assert (waits.attempts, waits.waiting) == (0, "the worker is being stopped")
    assert executor.cleaned == [run.run_id]


def test_a_lost_lease_ends_the_work_and_nothing_is_written(database: Database) -> None:
    run = held(database)

    def act(claim: Claim, tell: Teller) -> Outcome:
        with database.write() as connection:  # as a sweeper and another worker would
            connection.execute(update(runs).values(fence=runs.c.fence + 1, owner="other"))
        return until_interrupted(claim, tell)

    executor = Scripted(act)
    assert work_off(database, run, executor, LEASE) is None
    assert executor.cleaned == [run.run_id]
    now = reading.get(database, run.run_id)
    assert (now.state, now.owner, now.verdict) == (RunState.RUNNING, "other", None)


def test_without_its_database_an_attempt_ends_before_its_lease_does(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = held(database, lease=2.0)

    def away(*_details: object) -> None:
        raise HostError("the database does not answer")

    monkeypatch.setattr("workers.worker.attempt.renew", away)
    monkeypatch.setattr("workers.worker.attempt.hand_back", away)
    executor = Scripted(until_interrupted)
    assert work_off(database, run, executor, 2.0) is None
    assert executor.cleaned == [run.run_id]
    with database.read() as connection:
        left = connection.execute(select(runs.c.lease_until)).scalar_one() - database.now()
    assert left > -PATIENCE / 2, "it was interrupted, not worn out"


def test_a_verdict_waits_for_a_database_that_is_away_for_a_moment(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = held(database)
    away = [HostError("gone"), HostError("gone")]

    def sometimes(*details: object) -> RunState:
        if away:
            raise away.pop()
        return leases.finish(*details)  # type: ignore[arg-type]

    monkeypatch.setattr("workers.worker.attempt.finish", sometimes)
    assert work_off(database, run, Scripted(lambda *_: PASS), 60.0) is RunState.FINISHED


def test_no_room_waits_and_uses_no_attempt_up(database: Database) -> None:
    run = held(database)

    def act(_claim: Claim, _tell: Teller) -> Outcome:
        raise NotNow("xen1 has 2 clones, and may have 2", "wait")

    assert work_off(database, run, Scripted(act), 60.0) is RunState.QUEUED
    waits = reading.get(database, run.run_id)
    assert (waits.attempts, waits.waiting) == (0, "xen1 has 2 clones, and may have 2")
    assert waits.not_before > database.now()
    with database.read() as connection:
        assert list(connection.execute(select(attempts))) == [], "a look at the host is no attempt"


@pytest.mark.parametrize(("waited", "pause"), [(0.0, 30.0), (800.0, 100.0), (86400.0, 300.0)])
def test_who_has_waited_long_for_room_is_looked_at_less_often(
    database: Database, waited: float, pause: float
) -> None:
    run = held(database)
    with database.write() as connection:
        connection.execute(update(runs).values(submitted=database.now() - waited))

    def act(_claim: Claim, _tell: Teller) -> Outcome:
        raise NotNow("xen1 has 2 clones, and may have 2", "wait")

    work_off(database, run, Scripted(act), 60.0)
    again = reading.get(database, run.run_id).not_before - database.now()
    assert again == pytest.approx(pause, abs=5.0)


def test_a_record_that_could_not_be_noted_at_first_is_noted_with_the_verdict(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, tries = held(database), []

    def once_away(*details: object) -> None:
        tries.append(details)
        if len(tries) == 1:
            raise HostError("the database does not answer")
        leases.note_folder(*details)  # type: ignore[arg-type]

    monkeypatch.setattr("workers.worker.attempt.note_folder", once_away)
    assert work_off(database, run, Scripted(lambda *_: PASS), 60.0) is RunState.FINISHED
    with database.read() as connection:
        (row,) = connection.execute(select(attempts))
    assert (row.folder, len(tries)) == ("record-1", 2)


@pytest.mark.parametrize("problem", [HostError("no libvirt"), ValueError("a slip of ours")])
def test_what_fails_is_an_error_that_is_tried_again(database: Database, problem: Exception) -> None:
    run = held(database)

    def act(_claim: Claim, _tell: Teller) -> Outcome:
        raise problem

    assert work_off(database, run, Scripted(act), 60.0) is RunState.QUEUED
    assert str(problem) in reading.get(database, run.run_id).waiting


def test_what_is_wrong_with_the_request_is_told_at_once_and_whole(database: Database) -> None:
    run = held(database)

    def act(_claim: Claim, _tell: Teller) -> Outcome:
        raise RequestError("no key at /root/.ssh/no\0where", "name one")

    assert work_off(database, run, Scripted(act), 60.0) is RunState.FINISHED
    row = reading.get(database, run.run_id)
    assert (row.verdict, row.reason) == (Verdict.REJECTED, "no key at /root/.ssh/no where")


def test_what_cannot_be_told_does_not_end_the_work(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = held(database)

    def away(*_details: object) -> None:
        raise HostError("gone")

    monkeypatch.setattr("workers.worker.attempt.tell", away)

    def act(_claim: Claim, tell: Teller) -> Outcome:
        tell("phase", "boot")
        return PASS

    assert work_off(database, run, Scripted(act), 60.0) is RunState.FINISHED
