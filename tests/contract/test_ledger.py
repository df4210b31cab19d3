"""The truth about queued runs, on SQLite and on PostgreSQL: one suite, both real."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from sandbox.errors import HostError, RequestError
from sandbox.records import Verdict
from workers.database import Database, migrate, open_database, require_schema, schema_versions
from workers.database.schema import attempts, metadata, runs, verdicts
from workers.ledger import reading
from workers.ledger.leases import (
    LeaseLost,
    claim,
    finish,
    hand_back,
    renew,
    stopped,
    tell,
)
from workers.ledger.submitting import cancel, submit
from workers.ledger.sweeping import sweep
from workers.ledger.values import Claim, Order, Outcome, Priority, Renewal, RunRow
from workers.states import State

LEASE = 60.0
PASS = Outcome(Verdict.PASS, "all went well", {"packages": ["nginx"]})
FAIL = Outcome(Verdict.FAIL, "nginx does not start")
ERROR = Outcome(Verdict.ERROR, "the mirror did not answer")


def order(guest: str = "web01", **values: object) -> Order:
    return Order(scenario="security", guest=guest, host="xen1", **values)  # type: ignore[arg-type]


def take(database: Database, *, lease: float = LEASE, parallel: int | None = None) -> Claim | None:
    return claim(database, "xen1", "worker-a", lease, parallel)


def taken(database: Database, **values: float) -> Claim:
    held = take(database, **values)  # type: ignore[arg-type]
    assert held is not None
    return held


def row(database: Database, run_id: str) -> RunRow:
    return reading.get(database, run_id)


def make_due(database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(runs).values(not_before=0.0))


# -- the schema -------------------------------------------------------------------------------


def test_the_migrations_make_what_the_code_says(database: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"target_metadata": metadata})
        assert compare_metadata(context, metadata) == []
    current, newest = schema_versions(database)
    assert current == newest
    require_schema(database)


def test_many_may_migrate_at_once(database_url: str) -> None:
    several = [open_database(database_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, several))
    require_schema(several[0])
    for one in several:
        one.close()


def test_a_database_without_a_schema_is_refused_with_what_to_do(database_url: str) -> None:
    empty = open_database(database_url)
    with pytest.raises(HostError, match="not there") as told:
        require_schema(empty)
    assert "sandbox migrate" in told.value.hint
    empty.close()


def test_what_must_never_be_is_refused_by_the_tables(database: Database) -> None:
    run_id = submit(database, order()).run_id
    held = taken(database)
    finish(database, held, PASS)
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(
            insert(verdicts).values(
                run_id=run_id, fence=9, verdict="fail", reason="", evidence={}, decided=0.0
            )
        )
    for values in ({"verdict": None}, {"state": "queued"}, {"state": "lost"}):
        with pytest.raises(IntegrityError), database.write() as connection:
            connection.execute(update(runs).where(runs.c.id == run_id).values(values))


# -- in and out -------------------------------------------------------------------------------


def test_a_run_goes_its_way_and_says_so(database: Database) -> None:
    told = submit(database, order())
    assert not told.joined
    assert row(database, told.run_id).state is State.QUEUED
    held = taken(database)
    assert (held.run_id, held.attempt, held.request["guest"]) == (told.run_id, 1, "web01")
    tell(database, held, "phase", "boot")
    tell(database, held, "detail", "waiting for sshd", 40.0)
    assert row(database, told.run_id).phase == "boot"
    assert finish(database, held, PASS) is State.FINISHED
    done = row(database, told.run_id)
    assert (done.state, done.verdict, done.reason) == (State.FINISHED, Verdict.PASS, PASS.reason)
    assert done.lease_until is None
    assert done.ended is not None
    with database.read() as connection:
        evidence = connection.execute(select(verdicts.c.evidence)).scalar_one()
    assert evidence == {"packages": ["nginx"]}
    said = reading.events_after(database, told.run_id)
    assert [event.kind for event in said] == ["state", "state", "phase", "detail", "state"]
    assert said[3].percent == 40.0
    assert reading.events_after(database, told.run_id, said[3].id) == said[4:]


def test_equal_requests_join_the_open_run(database: Database) -> None:
    first = submit(database, order())
    assert submit(database, order()) == type(first)(first.run_id, joined=True)
    assert submit(database, order(content="another scenario")).run_id != first.run_id
    assert submit(database, order(fresh=True)).run_id != first.run_id
    held = taken(database)
    assert submit(database, order()).run_id == held.run_id, "it runs already"
    finish(database, held, FAIL)
    assert not submit(database, order()).joined, "that one was before"


def test_many_equal_requests_at_once_are_one_run(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: submit(database, order()), range(24)))
    assert len({one.run_id for one in told}) == 1
    assert sum(not one.joined for one in told) == 1


def test_who_waits_for_an_answer_makes_a_nightly_run_urgent(database: Database) -> None:
    nightly = submit(database, order(priority=Priority.NIGHTLY, delay=3600.0))
    assert take(database) is None, "its time has not come"
    gate = submit(database, order(priority=Priority.GATE))
    assert gate == type(gate)(nightly.run_id, joined=True)
    assert taken(database).run_id == nightly.run_id


def test_the_urgent_ones_first_then_the_oldest(database: Database) -> None:
    late = submit(database, order("a", priority=Priority.NIGHTLY)).run_id
    first = submit(database, order("b")).run_id
    second = submit(database, order("c")).run_id
    gate = submit(database, order("d", priority=Priority.GATE)).run_id
    assert [taken(database).run_id for _ in range(4)] == [gate, first, second, late]
    assert take(database) is None


def test_a_guest_is_rehearsed_once_at_a_time(database: Database) -> None:
    submit(database, order())
    other = submit(database, order(upgrade="nginx")).run_id
    held = taken(database)
    assert take(database) is None
    finish(database, held, PASS)
    assert taken(database).run_id == other


def test_a_host_takes_no_more_than_it_may(database: Database) -> None:
    for number in range(6):
        submit(database, order(f"web0{number}"))
    with ThreadPoolExecutor(6) as pool:
        held = [c for c in pool.map(lambda _: take(database, parallel=2), range(6)) if c]
    assert len(held) == 2
    assert take(database, parallel=2) is None
    finish(database, held[0], PASS)
    assert take(database, parallel=2) is not None


def test_no_run_is_claimed_twice(database: Database) -> None:
    ids = {submit(database, order(f"web{number}")).run_id for number in range(20)}
    claimed: list[str] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        while True:
            held = claim(database, "xen1", f"worker-{number}", LEASE, None)
            if held is None and len(claimed) >= len(ids):
                return
            if held is not None:
                with lock:
                    claimed.append(held.run_id)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(claimed) == sorted(ids)


# -- leases -----------------------------------------------------------------------------------


def test_a_lease_that_ran_out_is_taken_over_and_its_old_holder_writes_nothing(
    database: Database,
) -> None:
    run_id = submit(database, order()).run_id
    old = taken(database, lease=0.05)
    time.sleep(0.1)
    assert sweep(database).queued == (run_id,)
    assert renew(database, old, LEASE) is Renewal.LOST
    new = taken(database)
    assert new.fence > old.fence
    for write in (
        lambda: finish(database, old, PASS),
        lambda: hand_back(database, old, "", 0.0),
        lambda: stopped(database, old),
        lambda: tell(database, old, "phase", "verify"),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert row(database, run_id).state is State.RUNNING
    finish(database, new, FAIL)
    with pytest.raises(LeaseLost):
        finish(database, old, PASS)
    assert row(database, run_id).verdict is Verdict.FAIL


def test_a_renewed_lease_is_not_swept(database: Database) -> None:
    submit(database, order())
    held = taken(database, lease=0.2)
    assert renew(database, held, LEASE) is Renewal.KEPT
    time.sleep(0.3)
    assert sweep(database) == type(sweep(database))((), (), ())
    finish(database, held, PASS)


def test_a_lost_run_is_given_up_as_an_error_when_its_attempts_are_used_up(
    database: Database,
) -> None:
    run_id = submit(database, order(most_attempts=2)).run_id
    for attempt in (1, 2):
        held = taken(database, lease=0.0)
        assert held.attempt == attempt
        tell(database, held, "phase", "upgrade")
        time.sleep(0.02)
        swept = sweep(database)
    assert swept.given_up == (run_id,)
    lost = row(database, run_id)
    assert (lost.state, lost.verdict) == (State.FINISHED, Verdict.ERROR)
    assert "worker-a was lost during upgrade" in lost.reason


def test_sweepers_at_once_do_it_once(database: Database) -> None:
    ids = {submit(database, order(f"web{number}")).run_id for number in range(5)}
    for _ in ids:
        taken(database, lease=0.0)
    time.sleep(0.02)
    with ThreadPoolExecutor(4) as pool:
        swept = list(pool.map(lambda _: sweep(database), range(4)))
    assert sorted(run_id for one in swept for run_id in one.queued) == sorted(ids)


def test_a_grace_is_kept(database: Database) -> None:
    submit(database, order())
    taken(database, lease=0.0)
    time.sleep(0.02)
    assert sweep(database, grace=60.0).queued == ()


# -- again, or not ----------------------------------------------------------------------------


def test_only_an_error_is_tried_again_and_later_each_time(database: Database) -> None:
    run_id = submit(database, order()).run_id
    pauses = []
    for _ in range(2):
        assert finish(database, taken(database), ERROR) is State.QUEUED
        waits = row(database, run_id)
        assert waits.waiting == ERROR.reason
        pauses.append(waits.not_before - database.now())
        assert take(database) is None
        make_due(database)
    assert 50 < pauses[0] < 61 < 110 < pauses[1] < 121
    assert finish(database, taken(database), ERROR) is State.FINISHED
    assert row(database, run_id).verdict is Verdict.ERROR


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.ERROR])
def test_a_verdict_of_the_upgrade_stands(database: Database, verdict: Verdict) -> None:
    run_id = submit(database, order()).run_id
    assert finish(database, taken(database), Outcome(verdict, "so")) is State.FINISHED
    assert row(database, run_id).verdict is verdict


def test_handing_back_uses_no_attempt_up(database: Database) -> None:
    run_id = submit(database, order(most_attempts=1)).run_id
    for _ in range(3):
        held = taken(database)
        assert hand_back(database, held, "xen1 has no memory free", 0.0) is State.QUEUED
    waits = row(database, run_id)
    assert (waits.attempts, waits.waiting) == (0, "xen1 has no memory free")
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(attempts)).scalar_one() == 3


# -- cancelling -------------------------------------------------------------------------------


def test_a_queued_run_is_cancelled_at_once(database: Database) -> None:
    run_id = submit(database, order()).run_id
    assert cancel(database, run_id, "anna") is State.CANCELLED
    assert take(database) is None
    with pytest.raises(RequestError, match="cancelled cannot cancel"):
        cancel(database, run_id, "anna")


def test_a_running_one_is_cancelled_by_its_worker(database: Database) -> None:
    run_id = submit(database, order()).run_id
    held = taken(database)
    assert cancel(database, run_id, "anna") is State.CANCELLING
    assert cancel(database, run_id, "anna") is State.CANCELLING
    assert renew(database, held, LEASE) is Renewal.CANCEL
    again = submit(database, order())
    assert not again.joined, "nobody joins what is being cancelled"
    assert take(database) is None, "its clone is still there"
    assert stopped(database, held) is State.CANCELLED
    assert taken(database).run_id == again.run_id
    assert row(database, run_id).verdict is None


def test_a_cancelled_run_whose_worker_is_lost_stays_cancelled(database: Database) -> None:
    run_id = submit(database, order()).run_id
    taken(database, lease=0.0)
    cancel(database, run_id, "anna")
    time.sleep(0.02)
    assert sweep(database).cancelled == (run_id,)
    assert row(database, run_id).state is State.CANCELLED


def test_an_error_after_a_cancel_is_not_tried_again(database: Database) -> None:
    run_id = submit(database, order()).run_id
    held = taken(database)
    cancel(database, run_id, "anna")
    assert finish(database, held, ERROR) is State.CANCELLED


def test_a_verdict_that_was_there_before_the_cancel_is_kept(database: Database) -> None:
    run_id = submit(database, order()).run_id
    held = taken(database)
    cancel(database, run_id, "anna")
    assert finish(database, held, FAIL) is State.FINISHED
    assert row(database, run_id).verdict is Verdict.FAIL


# -- looking ----------------------------------------------------------------------------------


def test_a_run_is_found_by_a_part_of_its_id(database: Database) -> None:
    first = submit(database, order("a")).run_id
    second = submit(database, order("b")).run_id
    assert reading.find(database, first).id == first
    assert reading.find(database, second[-8:]).id == second
    assert reading.find(database, "latest").id in (first, second)
    for text in ("nothing", "%", "_", ""):
        with pytest.raises(RequestError):
            reading.find(database, text)
    with pytest.raises(RequestError, match="several"):
        reading.find(database, first[:8])


def test_recent_runs_are_listed_newest_first(database: Database) -> None:
    ids = [submit(database, order(f"web{n}", night="n@1" if n else None)).run_id for n in range(4)]
    assert {one.id for one in reading.recent(database, night="n@1")} == set(ids[1:])
    listed = reading.recent(database, 3)
    assert len(listed) == 3
    assert [one.submitted for one in listed] == sorted((o.submitted for o in listed), reverse=True)
    assert [one.guest for one in reading.recent(database, guest="web2")] == ["web2"]
    assert reading.recent(database, states=[State.RUNNING]) == ()
    assert reading.due_hosts(database) == {"xen1": 4}


def test_looking_waits_for_nobody(database: Database) -> None:
    submit(database, order())
    with database.write() as connection:
        connection.execute(update(runs).values(phase="boot"))
        assert [one.phase for one in reading.recent(database)] == [""]
    assert [one.phase for one in reading.recent(database)] == ["boot"]


def test_a_database_that_cannot_be_reached_is_an_error_of_the_host() -> None:
    gone = open_database("postgresql://nobody@/nothing?host=/nonexistent")
    with pytest.raises(HostError, match="cannot be used") as told:
        reading.recent(gone)
    assert told.value.hint
    gone.close()


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://host/name"])
def test_a_url_that_is_no_database_is_refused(url: str) -> None:
    with pytest.raises(RequestError):
        open_database(url)
