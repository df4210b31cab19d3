"""The service's core faults with real rehearsals, of a running guest and of an image: one verdict
a run, no pass after a loss, nothing left behind, and the running guest runs on as it was.

Each fault meets an upgrade that does not end by itself; the attempt after it has a short one.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from sandbox.core.records import Phase, Verdict
from tests.support.faults.chaos_cells import dice
from tests.support.faults.service_on_qemu import ENDLESS, Service, expect_pass
from tests.support.guests import leftovers
from tests.support.guests.guests import PRODUCTION
from workers.database.states import Change, RunState

pytestmark = pytest.mark.vm

SHORT = 1  # seconds
CANCELLED = 130  # exit status: there is no verdict


def test_a_submitted_run_is_rehearsed_and_its_report_can_be_read(
    service: Service, tmp_path: Path
) -> None:
    service.start_worker()
    service.upgrade_takes(SHORT)
    run_id = service.submit()
    watched = service.command("watch", run_id)
    assert watched.finish() == Verdict.PASS.exit_code, watched.output
    assert "upgrade" in watched.output
    (line,) = service.command("status", "--json").records()
    assert (line["id"], line["state"], line["verdict"]) == (run_id, "finished", "pass")
    assert f"{run_id}" in service.command("status").succeed()
    expect_pass(service, run_id, [Verdict.PASS])
    (attempt,) = service.attempts(run_id)
    service.command("artifacts", run_id, "--output", tmp_path / "kept").succeed()
    page = (tmp_path / "kept" / attempt.folder / "report.html").read_text()
    assert re.search(r"\b([3-9]) of \1 checks hold after", page), "two of its own, and the boot's"
    report = service.command("report", attempt.folder).succeed()
    assert "test_the_web_server_runs" in report


def test_a_worker_killed_with_all_its_children_in_mid_upgrade(
    service: Service, request: pytest.FixtureRequest
) -> None:
    first = service.start_worker()
    run_id = begin(service, request, running=True)
    service.kill_with_children(first)
    service.upgrade_takes(SHORT)
    assert leftovers.count(service.state)["domains"] == 1, "this kill would prove nothing"
    assert service.is_in(Phase.UPGRADE, run_id), "its lease holds"
    service.start_worker()
    expect_pass(service, run_id, [Change.LOSE, Verdict.PASS])


def test_a_child_killed_in_mid_upgrade(service: Service, request: pytest.FixtureRequest) -> None:
    worker = service.start_worker()
    run_id = begin(service, request)
    child = service.holder(run_id)
    assert child in worker.members() - {worker.pid}
    os.kill(child, signal.SIGKILL)
    service.upgrade_takes(SHORT)
    assert leftovers.count(service.state)["domains"] == 1, "this kill would prove nothing"
    expect_pass(service, run_id, [Change.LOSE, Verdict.PASS])
    assert worker.alive


def test_a_worker_that_is_stopped_in_mid_upgrade_hands_its_run_back(
    service: Service, request: pytest.FixtureRequest
) -> None:
    first = service.start_worker(drain=1.0)
    run_id = begin(service, request)
    service.drain(first)
    service.upgrade_takes(SHORT)
    assert service.row(run_id).state is RunState.QUEUED, service.logs()
    assert leftovers.count(service.state) == {}
    assert leftovers.backup_jobs([PRODUCTION]) == 0
    service.start_worker()
    row = expect_pass(service, run_id, [Change.HAND_BACK, Verdict.PASS])
    assert row.attempts == 1, "what is handed back uses up none"


def test_a_run_cancelled_in_mid_upgrade(service: Service, request: pytest.FixtureRequest) -> None:
    service.start_worker()
    run_id = begin(service, request)
    service.command("cancel", run_id).succeed()
    watched = service.command("watch", run_id)
    assert watched.finish() == CANCELLED, watched.output
    assert service.row(run_id).state is RunState.CANCELLED
    assert service.outcomes(run_id) == [Change.STOP]
    assert service.verdicts(run_id) == []
    assert leftovers.count(service.state) == {}


def begin(service: Service, request: pytest.FixtureRequest, *, running: bool = False) -> str:
    """A run at a random moment of its upgrade."""
    service.upgrade_takes(ENDLESS)
    run_id = service.submit(running=running)
    service.wait_for_moment(run_id, Phase.UPGRADE, dice(request.node.name))
    return run_id
