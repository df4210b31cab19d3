"""The truth about queued runs, on SQLite and on PostgreSQL: one suite, both real."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from sandbox.core.errors import HostError, RequestError
from sandbox.core.records import Verdict
from tests.support.service.ledger_world import FAIL, LEASE, PASS, order, row, take, taken
from workers.database import Database, migrate, open_database, require_schema, schema_versions
from workers.database.schema import metadata, runs, verdicts
from workers.database.states import RunState
from workers.queue import reading
from workers.queue.leases import (
    claim,
    finish,
    tell,
)
from workers.queue.submission import submit
from workers.queue.values import Priority

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
    assert row(database, told.run_id).state is RunState.QUEUED
    held = taken(database)
    assert (held.run_id, held.attempt, held.request["guest"]) == (told.run_id, 1, "web01")
    tell(database, held, "phase", "boot")
    tell(database, held, "detail", "waiting for sshd", 40.0)
    assert row(database, told.run_id).phase == "boot"
    assert finish(database, held, PASS) is RunState.FINISHED
    done = row(database, told.run_id)
    assert (done.state, done.verdict, done.reason) == (RunState.FINISHED, Verdict.PASS, PASS.reason)
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
    assert reading.recent(database, states=[RunState.RUNNING]) == ()
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
