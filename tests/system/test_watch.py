"""The upgraded clone is watched for a while: what ends it, and what it means for the checks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from sandbox.clone.guest import Guest
from sandbox.core.deadline import Deadline
from sandbox.core.errors import ConnectionLost, GuestUnreachable
from sandbox.core.records import (
    CheckEnd,
    CheckResult,
    CheckSession,
    Facts,
    Observation,
    Outcome,
    Phase,
    UpgradeLog,
    UpgradeStatus,
    Watch,
)
from sandbox.rehearsal import steps
from sandbox.rehearsal import trial as trial_module
from sandbox.rehearsal.plan import Plan, make_plan
from sandbox.rehearsal.run import Run
from sandbox.rehearsal.steps import watch, worth_watching
from sandbox.rehearsal.trial import Checkpoint, Trial
from tests.support.fakes.stage import Stage

RUNS = Observation(boot_id="a", kernel="6.1", units={"shop.service": "active/running"})
DEAD = RUNS.model_copy(update={"units": {"shop.service": "failed/failed"}})
AGAIN = RUNS.model_copy(update={"restarts": {"shop.service": 1}})
LASTS = 0.3  # seconds that are watched


@dataclass
class Watched:
    """What a guest shows at each glance, the last for ever; None: the connection breaks."""

    shows: list[Observation | None]
    comes_back_as: str = "a"  # its boot ids, one each time, the last for ever
    glances: int = field(default=0)

    def glance(self, _guest: object, _deadline: Deadline) -> Observation:
        shown = self.shows[min(self.glances, len(self.shows) - 1)]
        self.glances += 1
        if shown is None:
            raise ConnectionLost("the cable")
        return shown

    def enter(self, _deadline: Deadline) -> str:
        boot_id, rest = self.comes_back_as[0], self.comes_back_as[1:]
        self.comes_back_as = rest or boot_id
        return boot_id


@pytest.fixture
def run(stage: Stage) -> Run:
    made = Run(stage.new_folder(), stage.progress, stage.scenario())
    made.learn(after=RUNS)
    return made


@pytest.fixture
def plan(stage: Stage) -> Plan:
    folder = stage.new_folder()
    made = make_plan(
        stage.scenario(), stage.hypervisor, folder, False, Deadline(20, "plan"), watch=150.0
    )
    return replace(made, watch=LASTS)


def trial_of(plan: Plan, run: Run, guest: object) -> Trial:
    return Trial(plan, cast(Guest, guest), run.folder.artifacts)


@pytest.mark.parametrize("judged", [True, False])
def test_only_what_ran_before_the_upgrade_ends_it(
    run: Run, plan: Plan, monkeypatch: pytest.MonkeyPatch, judged: bool
) -> None:
    """What happens to be active at the first look may end: no check minds."""
    run.learn(before=RUNS if judged else RUNS.model_copy(update={"units": {}}))
    assert (watched(run, plan, monkeypatch, Watched([RUNS, DEAD]))[0] < LASTS) is judged


def test_what_no_check_minds_ends_it_once(
    run: Run, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.learn(watched=Watch(seconds=LASTS / 3, restarts={"shop.service": 7}))
    began = time.monotonic()
    seconds, glances = watched(run, plan, monkeypatch, Watched([DEAD, AGAIN]))
    assert seconds >= LASTS
    assert time.monotonic() - began < seconds, "what was watched already counts"
    assert glances > 2
    assert run.facts.watched is not None
    assert run.facts.watched.restarts == {"shop.service": 7}, "of the first look"


def watched(
    run: Run, plan: Plan, monkeypatch: pytest.MonkeyPatch, guest: Watched
) -> tuple[float, int]:
    """For how long, and with how many glances."""
    monkeypatch.setattr(steps, "_GLANCE", LASTS / 10)
    monkeypatch.setattr(steps, "observe_units", guest.glance)
    monkeypatch.setattr(trial_module, "observe_units", guest.glance)
    facts, trial = run.facts, trial_of(plan, run, guest)
    assert facts.after is not None
    deadline = Deadline(20, "verify")
    found = watch(run, trial, facts.before, facts.after, facts.watched, deadline)
    run.learn(watched=found)
    return found.seconds, guest.glances


def test_a_guest_in_order_is_watched_to_the_end(
    run: Run, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, glances = watched(run, plan, monkeypatch, Watched([RUNS]))
    assert seconds >= LASTS
    assert glances > 2


@pytest.mark.parametrize("then", [DEAD, AGAIN])
def test_what_dies_late_ends_the_watch(
    run: Run, plan: Plan, monkeypatch: pytest.MonkeyPatch, then: Observation
) -> None:
    assert watched(run, plan, monkeypatch, Watched([RUNS, RUNS, then]))[1] == 3


def test_units_that_may_stop_do_not_end_it(
    run: Run, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignoring = plan.check_settings.model_copy(update={"ignore_units": ("shop.*",)})
    tolerant = replace(plan, check_settings=ignoring)
    seconds, _glances = watched(run, tolerant, monkeypatch, Watched([DEAD]))
    assert seconds >= LASTS


def test_a_broken_connection_is_no_broken_guest(
    run: Run, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, _glances = watched(run, plan, monkeypatch, Watched([None, RUNS]))
    assert seconds >= LASTS


def test_a_guest_that_restarts_by_itself_meanwhile_has_failed(
    run: Run, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched(run, plan, monkeypatch, Watched([RUNS, None], comes_back_as="b"))
    assert run.facts.watched is not None
    assert run.facts.watched.restarted
    assert not worth_watching(
        plan, applied(session(Outcome.PASSED)).model_copy(update={"watched": run.facts.watched})
    )
    run.learn(watched=None)
    monkeypatch.setattr(trial_module, "_PAUSE", 0.01)
    down = RUNS.model_copy(update={"units": {}, "state": "stopping"})  # and lets one in once more
    shows: list[Observation | None] = [RUNS, down, None, down]
    watched(run, plan, monkeypatch, Watched(shows, comes_back_as="aab"))
    assert run.facts.watched.restarted
    run.learn(watched=None)
    other = RUNS.model_copy(update={"boot_id": "b"})  # and had come back before anybody looked
    watched(run, plan, monkeypatch, Watched([RUNS, other]))
    assert run.facts.watched.restarted


@pytest.mark.parametrize(
    ("restarted", "breaks", "boot_id", "done", "then"),
    [
        (False, False, "a", ["looked"], False),
        (True, False, "b", ["waited", "looked"], True),
        (False, True, "a", ["looked"], False),  # the way there broke, not the guest
        (False, True, "b", ["waited", "looked"], True),  # just after the last glance
    ],
)
def test_one_that_restarted_is_let_come_up_before_it_is_looked_at(
    run: Run,
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
    restarted: bool,
    breaks: bool,
    boot_id: str,
    done: list[str],
    then: bool,
) -> None:
    did: list[str] = []
    broken = iter([ConnectionLost("the cable")] if breaks else [])

    class Up(Watched):
        def wait_until_up(self, _deadline: Deadline) -> None:
            did.append("waited")

    def look(_guest: Guest, _deadline: Deadline) -> Observation:
        for lost in broken:
            raise lost
        did.append("looked")
        return RUNS

    monkeypatch.setattr(trial_module, "observe", look)
    monkeypatch.setattr(trial_module, "observe_units", lambda *_args: RUNS)
    trial = trial_of(plan, run, Up([RUNS], comes_back_as=boot_id))
    watched = Watch(seconds=1, restarted=restarted)
    found = steps.observe_again(trial, RUNS, watched, Deadline(20, "verify"))
    assert found == (RUNS, Watch(seconds=1, restarted=then))
    assert did == done


@pytest.mark.parametrize(("boot_id", "fails"), [("a", False), ("b", True)])
def test_checks_during_which_the_guest_restarted_are_a_failure_of_the_guest(
    run: Run, plan: Plan, monkeypatch: pytest.MonkeyPatch, boot_id: str, fails: bool
) -> None:
    lost = CheckSession(results=(), end=CheckEnd.CONNECTION_LOST)
    monkeypatch.setattr(Trial, "check", lambda *_args, **_more: lost)
    monkeypatch.setattr(trial_module, "observe_units", lambda *_args: RUNS)
    trial = trial_of(plan, run, Watched([RUNS], comes_back_as=boot_id))
    at = Checkpoint("after", RUNS, RUNS)
    if fails:
        with pytest.raises(GuestUnreachable, match="restarted by itself while it was checked"):
            steps.check(run, trial, at, Deadline(20, "verify"))
    else:
        assert steps.check(run, trial, at, Deadline(20, "verify")) == lost


def session(outcome: Outcome, end: CheckEnd = CheckEnd.COMPLETE) -> CheckSession:
    return CheckSession(results=(CheckResult(name="test_a", outcome=outcome),), end=end)


def applied(after: CheckSession | None, status: UpgradeStatus = UpgradeStatus.APPLIED) -> Facts:
    upgrade = UpgradeLog(manager="apt", status=status, requested="all")
    held = session(Outcome.PASSED)
    return Facts(checks_before=held, checks_after=after, upgrade=upgrade, before=RUNS, after=RUNS)


@pytest.mark.parametrize(
    ("worth", "facts"),
    [
        (True, applied(session(Outcome.PASSED))),
        (False, applied(session(Outcome.FAILED))),
        (False, applied(session(Outcome.PASSED, CheckEnd.TIMEOUT))),
        (False, applied(session(Outcome.PASSED), UpgradeStatus.FAILED)),
        (False, applied(session(Outcome.PASSED), UpgradeStatus.NOTHING)),
        (False, applied(None)),
        (False, Facts()),
    ],
)
def test_only_what_is_in_order_so_far_is_watched(plan: Plan, worth: bool, facts: Facts) -> None:
    assert worth_watching(plan, facts) is worth
    assert not worth_watching(replace(plan, watch=0.0), facts)
    half = facts.model_copy(update={"watched": Watch(seconds=LASTS / 2)})
    assert worth_watching(plan, half) is worth
    whole = facts.model_copy(update={"watched": Watch(seconds=LASTS)})
    assert not worth_watching(plan, whole)


@pytest.mark.parametrize(
    ("stated", "seconds"), [("", 150.0), ("watch: 10m\n", 600.0), ("watch: 0\n", 0.0)]
)
def test_the_scenario_goes_before_the_settings(stage: Stage, stated: str, seconds: float) -> None:
    scenario = stage.scenario(stated + "source: {guest: web01}")
    made = make_plan(
        scenario, stage.hypervisor, stage.new_folder(), False, Deadline(20, "plan"), watch=150.0
    )
    assert made.watch == seconds
    assert made.seconds[Phase.VERIFY] == 300 + seconds
