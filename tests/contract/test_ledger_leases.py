"""Who holds a run, how it is kept, lost, tried again and cancelled: on both databases."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from sandbox.core.errors import RequestError
from sandbox.core.records import Verdict
from tests.support.service.ledger_world import (
    ERROR,
    FAIL,
    LEASE,
    PASS,
    make_due,
    order,
    row,
    take,
    taken,
)
from workers.database import Database
from workers.database.schema import attempts
from workers.database.states import RunState
from workers.queue.leases import (
    LeaseLost,
    finish,
    hand_back,
    note_folder,
    renew,
    stopped,
    tell,
)
from workers.queue.reclaim import sweep
from workers.queue.submission import cancel, submit
from workers.queue.values import Outcome, Renewal

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
        lambda: tell(database, old, "detail", "still here"),
        lambda: note_folder(database, old, "folder"),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert row(database, run_id).state is RunState.RUNNING
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
    assert (lost.state, lost.verdict) == (RunState.FINISHED, Verdict.ERROR)
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
        assert finish(database, taken(database), ERROR) is RunState.QUEUED
        waits = row(database, run_id)
        assert waits.waiting == ERROR.reason
        pauses.append(waits.not_before - database.now())
        assert take(database) is None
        make_due(database)
    assert 50 < pauses[0] < 61 < 110 < pauses[1] < 121
    assert finish(database, taken(database), ERROR) is RunState.FINISHED
    assert row(database, run_id).verdict is Verdict.ERROR


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.ERROR])
def test_a_verdict_of_the_upgrade_stands(database: Database, verdict: Verdict) -> None:
    run_id = submit(database, order()).run_id
    assert finish(database, taken(database), Outcome(verdict, "so")) is RunState.FINISHED
    assert row(database, run_id).verdict is verdict


def test_handing_back_uses_no_attempt_up(database: Database) -> None:
    run_id = submit(database, order(most_attempts=1)).run_id
    for _ in range(3):
        held = taken(database)
        assert hand_back(database, held, "xen1 has no memory free", 0.0) is RunState.QUEUED
    waits = row(database, run_id)
    assert (waits.attempts, waits.waiting) == (0, "xen1 has no memory free")
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(attempts)).scalar_one() == 3


# -- cancelling -------------------------------------------------------------------------------


def test_a_queued_run_is_cancelled_at_once(database: Database) -> None:
    run_id = submit(database, order()).run_id
    assert cancel(database, run_id, "anna") is RunState.CANCELLED
    assert take(database) is None
    with pytest.raises(RequestError, match="cancelled cannot cancel"):
        cancel(database, run_id, "anna")


def test_a_running_one_is_cancelled_by_its_worker(database: Database) -> None:
    run_id = submit(database, order()).run_id
    held = taken(database)
    assert cancel(database, run_id, "anna") is RunState.CANCELLING
    assert cancel(database, run_id, "anna") is RunState.CANCELLING
    assert renew(database, held, LEASE) is Renewal.CANCEL
    again = submit(database, order())
    assert not again.joined, "nobody joins what is being cancelled"
    assert take(database) is None, "its clone is still there"
    assert stopped(database, held) is RunState.CANCELLED
    assert taken(database).run_id == again.run_id
    assert row(database, run_id).verdict is None


def test_a_cancelled_run_whose_worker_is_lost_stays_cancelled(database: Database) -> None:
    run_id = submit(database, order()).run_id
    taken(database, lease=0.0)
    cancel(database, run_id, "anna")
    time.sleep(0.02)
    assert sweep(database).cancelled == (run_id,)
    assert row(database, run_id).state is RunState.CANCELLED


def test_an_error_after_a_cancel_is_not_tried_again(database: Database) -> None:
    run_id = submit(database, order()).run_id
    held = taken(database)
    cancel(database, run_id, "anna")
    assert finish(database, held, ERROR) is RunState.CANCELLED


def test_a_verdict_that_was_there_before_the_cancel_is_kept(database: Database) -> None:
    run_id = submit(database, order()).run_id
    held = taken(database)
    cancel(database, run_id, "anna")
    assert finish(database, held, FAIL) is RunState.FINISHED
    assert row(database, run_id).verdict is Verdict.FAIL
