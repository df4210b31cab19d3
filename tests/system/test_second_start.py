"""A start after the upgrade that took much longer: what broke in it is asked after another one."""

from __future__ import annotations

from typing import cast

import pytest

from sandbox.clone.guest import Guest
from sandbox.core.deadline import Deadline
from sandbox.core.errors import GuestUnreachable
from sandbox.core.records import (
    Autopsy,
    CheckSession,
    Facts,
    Phase,
    Reboot,
    SecondStart,
    UnitTrace,
)
from sandbox.rehearsal.plan import make_plan
from sandbox.rehearsal.retest import confirm_start, start_again
from sandbox.rehearsal.run import Run
from sandbox.rehearsal.trial import Checkpoint, Trial
from tests.support.fakes.sample_records import observation
from tests.support.fakes.stage import Stage
from tests.unit.test_second_start import GREEN, NAME, RED, SLOW, slow_and_red


class Restarted:
    def __init__(self, *, comes_back: bool) -> None:
        self._comes_back = comes_back

    def reboot(self, _deadline: Deadline) -> Reboot:
        return Reboot(happened=self._comes_back, message="no answer in 600 s")


@pytest.fixture
def run(stage: Stage) -> Run:
    made = Run(stage.new_folder(), stage.progress, stage.scenario())
    made.learn(**{name: getattr(slow_and_red(), name) for name in Facts.model_fields})
    return made


def trial_of(stage: Stage, run: Run, guest: object) -> Trial:
    plan = make_plan(
        stage.scenario(), stage.hypervisor, stage.new_folder(), False, Deadline(20, "plan")
    )
    return Trial(plan, cast(Guest, guest), run.folder.artifacts)


def test_a_guest_that_does_not_come_back_then_is_told(stage: Stage, run: Run) -> None:
    start_again(run, trial_of(stage, run, Restarted(comes_back=True)), Deadline(20, "reboot"))
    gone = trial_of(stage, run, Restarted(comes_back=False))
    with pytest.raises(GuestUnreachable, match=r"its second start.*: no answer in 600 s"):
        start_again(run, gone, Deadline(20, "reboot"))


def test_what_broke_is_asked_anew_and_what_was_found_first_stays(
    run: Run, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, tuple[str, ...], float | None, bool]] = []
    quick = observation(after=True).model_copy(update={"boot_id": "c", "boot_seconds": 24.4})
    trial = trial_of(stage, run, object())

    def checks(
        _trial: Trial,
        _at: Checkpoint,
        _deadline: Deadline,
        log: str,
        only: tuple[str, ...],
        settle: float | None,
    ) -> CheckSession:
        asked.append((log, only, settle, run.facts.second_start is not None))
        return GREEN

    ran = {**(SLOW.units), "shop.service": "active/running"}
    run.learn(
        before=observation().model_copy(update={"units": ran}),
        autopsy=Autopsy(units=tuple(UnitTrace(unit=f"{one}.service") for one in ("nginx", "shop"))),
    )
    monkeypatch.setattr(Trial, "observe", lambda *_args: quick)
    monkeypatch.setattr(Trial, "check", checks)
    confirm_start(run, trial, Deadline(20, "verify"))
    (first,) = asked
    assert first == ("checks-again-3", (NAME,), None, True), "they wait as after any start"
    assert run.facts.checks_again == (RED, RED, GREEN)
    assert "checks-again-3.log" in {artifact.name for artifact in run.record.artifacts}
    assert run.facts.second_start == SecondStart(first=131, second=24.4)
    assert run.facts.after == SLOW
    assert run.facts.autopsy == Autopsy(units=(UnitTrace(unit="shop.service"),)), "nginx is back"
    with run.phase(Phase.VERIFY, 20):
        confirm_start(run, trial, Deadline(20, "verify"))
    assert run.record.phases[-1].note == "1 of 1 checks that broke hold now"
