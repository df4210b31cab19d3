"""Ctrl-C and SIGTERM: the command cleans up, says so, and ends with 130."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.core.records import Phase
from sandbox.demo.guest import Production
from tests.support.faults.commands import Command
from tests.support.guests import leftovers
from tests.support.guests.guests import PRODUCTION, Lab
from tests.support.guests.resuming import environment
from tests.support.machine.forked import RESUMING

pytestmark = pytest.mark.vm

Start = Callable[..., Command]
SAID = "interrupted: the clone, its network and its files are removed"


@pytest.mark.parametrize(
    ("number", "phase"), [(signal.SIGTERM, Phase.BOOT), (signal.SIGINT, Phase.UPGRADE)]
)
def test_a_signal_ends_a_run_cleanly(
    number: signal.Signals, phase: Phase, sandbox: Start, scenario: Path, lab: Lab, saved: Path
) -> None:
    resumed = environment(saved, lab.image.path)
    run = sandbox("run", scenario, *_image(lab), entry=RESUMING, **resumed)
    run.wait_for_phase(phase)
    run.send(number)
    _expect_clean_end(run, sandbox, lab, phase)


def test_ctrl_c_ends_the_export_of_a_running_source(
    sandbox: Start, scenario: Path, lab: Lab, production: Production
) -> None:
    run = sandbox("run", scenario, "--guest", PRODUCTION, "--key", production.key)
    run.wait_for_phase(Phase.BOOT)
    run.send(signal.SIGINT)
    _expect_clean_end(run, sandbox, lab, Phase.BOOT)
    assert leftovers.backup_jobs([PRODUCTION]) == 0


def test_more_of_them_do_not_cut_the_clean_up_short(
    sandbox: Start, scenario: Path, lab: Lab
) -> None:
    run = sandbox("run", scenario, *_image(lab))
    run.wait_for_phase(Phase.BOOT)
    run.send(signal.SIGINT)
    run.send(signal.SIGINT)
    run.wait_for_phase(Phase.CLEANUP)
    run.send(signal.SIGTERM)
    run.send(signal.SIGINT)
    _expect_clean_end(run, sandbox, lab, Phase.BOOT)


def test_an_interrupted_run_is_not_kept(sandbox: Start, scenario: Path, lab: Lab) -> None:
    run = sandbox("run", scenario, *_image(lab), "--keep")
    run.wait_for_phase(Phase.BOOT)
    run.send(signal.SIGINT)
    _expect_clean_end(run, sandbox, lab, Phase.BOOT)


def _image(lab: Lab) -> tuple[object, ...]:
    return "--image", lab.image.path, "--format", "qcow2", "--key", lab.image.key


def _expect_clean_end(run: Command, sandbox: Start, lab: Lab, phase: Phase) -> None:
    assert run.finish() == 130, run.output
    assert SAID in run.output
    assert "Traceback" not in run.output
    assert leftovers.count(lab.settings.state) == {}
    (record,) = sandbox("list", "--json").records()
    assert (record["state"], record["verdict"]) == ("finished", "error")
    assert "interrupted" in record["reason"]
    assert "nothing to remove" in sandbox("reap").succeed()
