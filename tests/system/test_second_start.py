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
    Observation,
    Phase,
    Reboot,
    SecondStart,
    UnitTrace,
)
from sandbox.rehearsal import retest
from sandbox.rehearsal.plan import Plan, make_plan
from sandbox.rehearsal.retest import confirm_start, start_again
from sandbox.rehearsal.run import Run
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


def test_a_guest_that_does_not_come_back_then_is_told(run: Run) -> None:
    start_again(run, cast(Guest, Restarted(comes_back=True)), Deadline(20, "reboot"))
    with pytest.raises(GuestUnreachable, match=r"its second start.*: no answer in 600 s"):
        start_again(run, cast(Guest, Restarted(comes_back=False)), Deadline(20, "reboot"))


def test_what_broke_is_asked_anew_and_what_was_found_first_stays(
    run: Run, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, tuple[str, ...], float]] = []
    quick = observation(after=True).model_copy(update={"boot_id": "c", "boot_seconds": 24.4})
    plan = make_plan(
        stage.scenario(), stage.hypervisor, stage.new_folder(), False, Deadline(20, "plan")
    )

    def checks(_plan: Plan, made: Run, *_rest: object, only: tuple[str, ...]) -> CheckSession:
        asked.append((str(_rest[-1]), only, made.facts.second_start is not None))
        return GREEN

    def look(_guest: Guest, _deadline: Deadline) -> Observation:
        return quick

    ran = {**(SLOW.units), "shop.service": "active/running"}
    run.learn(
        before=observation().model_copy(update={"units": ran}),
        autopsy=Autopsy(units=tuple(UnitTrace(unit=f"{one}.service") for one in ("nginx", "shop"))),
    )
    monkeypatch.setattr(retest, "observe", look)
    monkeypatch.setattr(retest, "checked", checks)
    confirm_start(plan, run, cast(Guest, object()), Deadline(20, "verify"))
    assert asked == [("checks-again-3", (NAME,), True)]
    assert run.facts.checks_again == (RED, RED, GREEN)
    assert "checks-again-3.log" in {artifact.name for artifact in run.record.artifacts}
    assert run.facts.second_start == SecondStart(first=131, second=24.4)
    assert run.facts.after == SLOW
    assert run.facts.autopsy == Autopsy(units=(UnitTrace(unit="shop.service"),)), "nginx is back"
    with run.phase(Phase.VERIFY, 20):
        confirm_start(plan, run, cast(Guest, object()), Deadline(20, "verify"))
    assert run.record.phases[-1].note == "1 of 1 checks that broke hold now"
