"""A check that broke is asked again: what becomes of it when nobody answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import pytest

from sandbox.checks import CheckSettings
from sandbox.checks.runner import share_of_checks
from sandbox.clone.guest import Guest
from sandbox.core.deadline import Deadline
from sandbox.core.errors import ConnectionLost, DeadlineExceeded, GuestUnreachable, HostError
from sandbox.core.records import (
    Autopsy,
    CheckEnd,
    CheckSession,
    Control,
    Facts,
    Observation,
    Phase,
    Reboot,
    UnitTrace,
    Watch,
)
from sandbox.rehearsal import control as control_module
from sandbox.rehearsal import recipe, steps
from sandbox.rehearsal import trial as trial_module
from sandbox.rehearsal.control import ControlTrial
from sandbox.rehearsal.plan import Plan, make_plan
from sandbox.rehearsal.retest import confirm
from sandbox.rehearsal.run import Run
from sandbox.rehearsal.trial import Trial
from tests.support.fakes.sample_records import passing_facts, session
from tests.support.fakes.stage import Stage

NAME = "test_web.py::test_http"
RED, GREEN = session({NAME: "refused"}), session()
LOST = CheckSession(results=(), end=CheckEnd.CONNECTION_LOST, message="the way there broke")


class Back:
    """A guest that is found again as the one that it was, or as another."""

    def __init__(self, boot_id: str | None = None) -> None:
        self._boot_id = boot_id

    def enter(self, _deadline: Deadline) -> str:
        after = passing_facts().after
        assert after is not None
        return self._boot_id or after.boot_id


@pytest.fixture
def run(stage: Stage) -> Run:
    made = Run(stage.new_folder(), stage.progress, stage.scenario())
    made.learn(**{name: getattr(passing_facts(), name) for name in Facts.model_fields})
    made.learn(checks_after=RED)
    return made


@pytest.fixture
def plan(stage: Stage) -> Plan:
    folder = stage.new_folder()
    return make_plan(stage.scenario(), stage.hypervisor, folder, False, Deadline(20, "plan"))


def trial_of(plan: Plan, run: Run, guest: object) -> Trial:
    return Trial(plan, cast(Guest, guest), run.folder.artifacts)


def asked(
    plan: Plan, run: Run, monkeypatch: pytest.MonkeyPatch, *says: object, guest: Back | None = None
) -> tuple[CheckSession, ...]:
    told = iter(says)

    def checks(*_args: object, **_more: object) -> CheckSession:
        said = next(told)
        if isinstance(said, Exception):
            raise said
        return cast(CheckSession, said)

    trial = trial_of(plan, run, guest or Back())
    monkeypatch.setattr(Trial, "check", checks)
    monkeypatch.setattr(Trial, "observe", lambda *_args: RUNS)
    monkeypatch.setattr(trial_module, "observe_units", lambda *_args: RUNS)
    found = confirm(run, trial, Deadline(20, "verify"))
    assert next(told, None) is None, "each was asked for"
    return found


def test_it_is_asked_until_it_holds_at_most_twice(
    plan: Plan, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(plan, run, monkeypatch, RED, RED) == (RED, RED)
    assert asked(plan, run, monkeypatch, RED, GREEN) == (RED, GREEN)
    assert asked(plan, run, monkeypatch, GREEN) == (GREEN,)
    run.learn(checks_after=GREEN)
    assert asked(plan, run, monkeypatch) == ()


def test_a_way_that_broke_is_found_again_and_the_check_asked(
    plan: Plan, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = ConnectionLost("the cable")
    assert asked(plan, run, monkeypatch, lost, RED, LOST, GREEN) == (RED, GREEN)
    silent = asked(plan, run, monkeypatch, LOST, LOST, lost, lost)
    assert [one.message for one in silent] == ["the way there broke", "the cable"]
    with pytest.raises(GuestUnreachable, match="restarted by itself while it was checked"):
        asked(plan, run, monkeypatch, LOST, guest=Back("another"))


def test_no_time_left_leaves_it_unconfirmed(
    plan: Plan, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = DeadlineExceeded("verify", 450)
    found = asked(plan, run, monkeypatch, late, late)
    assert [one.message for one in found] == ["verify took longer than 450 s"] * 2


def test_what_hung_is_not_asked_again(
    plan: Plan, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.learn(checks_after=RED.model_copy(update={"end": CheckEnd.TIMEOUT}))
    assert asked(plan, run, monkeypatch) == ()


@pytest.mark.parametrize(
    ("problem", "raised"),
    [
        (HostError("no more memory"), False),
        (ConnectionLost("the cable"), False),
        (GuestUnreachable("it stays away"), True),
    ],
)
def test_a_host_that_fails_the_second_start_unproves_nothing(
    plan: Plan, run: Run, monkeypatch: pytest.MonkeyPatch, problem: Exception, raised: bool
) -> None:
    def start_again(*_args: object) -> None:
        raise problem

    monkeypatch.setattr(recipe, "start_again", start_again)
    if raised:
        with pytest.raises(GuestUnreachable):
            recipe._start_once_more(run, trial_of(plan, run, Back()))
    else:
        recipe._start_once_more(run, trial_of(plan, run, Back()))
    assert run.facts.second_start is None
    (failed,) = run.record.phases
    assert (failed.phase, failed.ok) == (Phase.REBOOT, False)


RUNS = Observation(boot_id="a", kernel="6.1", units={"shop.service": "active/running"})
FAILED = RUNS.model_copy(update={"units": {}, "failed_units": ("shop.service",)})
RESTARTED = RUNS.model_copy(update={"restarts": {"shop.service": 3}})


@pytest.mark.parametrize(
    ("after", "there", "ignored", "asked"),
    [
        (FAILED, None, (), ("shop.service",)),
        (FAILED, None, ("shop.*",), None),  # nobody minds
        (RESTARTED, None, (), ("shop.service",)),  # it runs whenever one looks
        (RESTARTED, Control(before=RUNS, after=RESTARTED), (), None),  # as on the control
        (RESTARTED, Control(before=RUNS, after=RUNS), (), ("shop.service",)),
        (RUNS, None, (), None),
    ],
)
def test_what_is_looked_into(
    plan: Plan,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    after: Observation,
    there: Control | None,
    ignored: tuple[str, ...],
    asked: tuple[str, ...] | None,
) -> None:
    def examine(_guest: Guest, units: list[str], _deadline: Deadline) -> Autopsy:
        return Autopsy(units=tuple(UnitTrace(unit=unit) for unit in units))

    monkeypatch.setattr(steps, "examine", examine)
    settings = plan.check_settings.model_copy(update={"ignore_units": ignored})
    run.learn(before=RUNS, after=after, control=there)
    tolerant = replace(plan, check_settings=settings)
    trial = trial_of(tolerant, run, Back())
    found = steps.find_out(trial, run.facts, Deadline(20, "verify"))
    assert (tuple(one.unit for one in found.units) if found else None) == asked


@pytest.mark.parametrize("problem", [ConnectionLost("the cable"), DeadlineExceeded("verify", 9)])
def test_what_cannot_be_looked_into_costs_no_verdict(
    plan: Plan, run: Run, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def examine(*_args: object) -> Autopsy:
        raise problem

    monkeypatch.setattr(steps, "examine", examine)
    run.learn(before=RUNS, after=FAILED)
    trial = trial_of(plan, run, Back())
    assert steps.find_out(trial, run.facts, Deadline(20, "verify")) is None


@pytest.mark.parametrize(("phase", "share"), [(450.0, 390.0), (100.0, 80.0), (0.0, 0.0)])
def test_checks_leave_time_for_what_comes_after_them(phase: float, share: float) -> None:
    assert share_of_checks(phase) == share


class ControlGuest:
    """A guest that does what the control does with one."""

    connection = cast(Callable[[], None], type("Way", (), {"config": "ssh_config"}))

    def __enter__(self) -> ControlGuest:
        return self

    def __exit__(self, *_exc: object) -> None:
        return None

    def enter(self, _deadline: Deadline) -> str:
        return "a"

    wait_until_up = enter

    def reboot(self, _deadline: Deadline) -> Reboot:
        return Reboot(happened=True)


class Nothing:
    """Looks at nothing aside."""

    def __init__(self, *_args: object) -> None: ...

    def added_to(self, seen: Observation) -> Observation:
        return seen


def beside_a_watched_clone(
    plan: Plan,
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    shows: Iterable[Observation],
    watched: Watch,
) -> tuple[Control, list[tuple[str, object]]]:
    """What the control found, and by what its checks were to judge, in each phase."""
    shown, told = iter(shows), list[tuple[str, object]]()

    def checks(**given: object) -> CheckSession:
        settings = cast(CheckSettings, given["settings"])
        told.append((str(given["phase"]), settings.restarts_at_first))
        return GREEN

    monkeypatch.setattr(trial_module, "observe", lambda *_args: next(shown))
    monkeypatch.setattr(trial_module, "run_checks", checks)
    monkeypatch.setattr(control_module, "Aside", Nothing)
    monkeypatch.setattr(control_module, "ROUNDS", 1)
    monkeypatch.setattr(control_module, "LATER", 0.1)
    folder = stage.new_folder()
    control = ControlTrial(plan, stage.hypervisor, folder, lambda _cut: cast(Guest, ControlGuest()))
    with control:
        control.go_on(reboot=True)
        found = control.found(Deadline(20, "verify"), watched=watched)
    assert found is not None
    assert found.missing == ""
    return found, told


def test_the_control_is_judged_by_the_first_look_at_it_as_the_watched_clone_is(
    plan: Plan, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What systemd had started again by then is no news at the last look."""
    first = Observation(boot_id="b", kernel="6.1", restarts={"shop.service": 0})
    later = first.model_copy(update={"restarts": {"shop.service": 1}})
    found, told = beside_a_watched_clone(
        plan, stage, monkeypatch, (first, first, later), Watch(seconds=0.2)
    )
    assert told == [("before", None), ("after", None), ("after", {"shop.service": 0})]
    assert not found.restarted


@pytest.mark.parametrize("restarts", [True, False])
def test_a_control_that_restarts_by_itself_meanwhile_is_told(
    plan: Plan, stage: Stage, monkeypatch: pytest.MonkeyPatch, restarts: bool
) -> None:
    starts = "abc" if restarts else "abb"  # the second is its reboot
    shows = [Observation(boot_id=start, kernel="6.1") for start in starts]
    ended = Watch(seconds=0.2, restarted=True)
    found, _told = beside_a_watched_clone(plan, stage, monkeypatch, shows, ended)
    assert found.restarted is restarts
