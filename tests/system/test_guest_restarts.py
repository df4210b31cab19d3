"""A guest that restarts by itself, or goes away: noticed wherever it happens, and asked about at
the control."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import pytest

from sandbox.clone.guest import Guest
from sandbox.core.deadline import Deadline
from sandbox.core.errors import ConnectionLost, GuestRestarted, GuestUnreachable
from sandbox.core.records import CheckResult as Result
from sandbox.core.records import CheckSession, Observation, Outcome, Phase, RunRecord, Verdict
from sandbox.managers import Simulation
from sandbox.rehearsal import control as control_module
from sandbox.rehearsal import recipe, steps
from sandbox.rehearsal import trial as trial_module
from sandbox.rehearsal.control import ControlTrial
from sandbox.rehearsal.plan import Plan, make_plan
from sandbox.rehearsal.run import Run
from sandbox.rehearsal.trial import Trial
from sandbox.verdict.decide import decide
from tests.support.fakes.sample_records import observation, passing_facts, upgrade
from tests.support.fakes.stage import Stage
from tests.support.waiting import soon

GREEN = CheckSession(results=(Result(name="test_a", outcome=Outcome.PASSED),))
BEFORE = observation(after=False)
RESTARTED = "another start"


class Shaky:
    """A guest whose connection breaks, once for each of ``breaks``; found again as ``boot_id``."""

    def __init__(self, breaks: int = 0, boot_id: str = BEFORE.boot_id) -> None:
        self._breaks, self._boot_id = breaks, boot_id
        self.asked = 0

    def enter(self, _deadline: Deadline) -> str:
        return self._boot_id

    def wait_until_up(self, _deadline: Deadline) -> None:
        self.run("", _deadline)

    def run(self, _script: str, _deadline: Deadline) -> None:
        self.asked += 1
        if self.asked <= self._breaks:
            raise ConnectionLost("the cable")


@pytest.fixture
def run(stage: Stage) -> Run:
    made = Run(stage.new_folder(), stage.progress, stage.scenario())
    made.learn(before=BEFORE, upgrade=upgrade(), booted=True, checks_before=GREEN)
    return made


@pytest.fixture
def plan(stage: Stage) -> Plan:
    scenario = stage.scenario("source: {guest: web01}\nreboot: always")
    return make_plan(scenario, stage.hypervisor, stage.new_folder(), False, soon())


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "observe_units", lambda *_args: BEFORE)
    monkeypatch.setattr(trial_module, "observe", lambda *_args: BEFORE)


def trial_of(plan: Plan, run: Run, guest: object) -> Trial:
    """Of a guest that was observed before its upgrade."""
    trial = Trial(plan, cast(Guest, guest), run.folder.artifacts)
    trial.start = BEFORE.boot_id
    return trial


Ask = Callable[[Run, Trial], object]
ASKED: list[tuple[Ask, str]] = [
    (lambda _run, trial: steps.must_reboot(trial, upgrade(), soon()), "once it was upgraded"),
    (lambda run, trial: steps.first_observation(run, trial, soon()), "soon after its upgrade"),
]


@pytest.mark.parametrize(("ask", "when"), ASKED)
def test_a_way_that_breaks_once_is_no_restart(plan: Plan, run: Run, ask: Ask, when: str) -> None:
    shaky = Shaky(breaks=1)
    assert ask(run, trial_of(plan, run, shaky))
    assert shaky.asked == 2


@pytest.mark.parametrize(("ask", "when"), ASKED)
def test_a_way_that_breaks_again_and_again_is_a_lost_connection(
    plan: Plan, run: Run, ask: Ask, when: str
) -> None:
    with pytest.raises(ConnectionLost):
        ask(run, trial_of(plan, run, Shaky(breaks=2)))


@pytest.mark.parametrize(("ask", "when"), ASKED)
def test_another_start_is_a_restart(plan: Plan, run: Run, ask: Ask, when: str) -> None:
    with pytest.raises(GuestRestarted, match=f"by itself {when}"):
        ask(run, trial_of(plan, run, Shaky(breaks=1, boot_id=RESTARTED)))


def test_after_a_reboot_of_ours_it_is_the_new_start_that_counts(plan: Plan, run: Run) -> None:
    reboot = passing_facts().reboot
    assert reboot is not None
    for boot_id in reboot.boot_id_after, reboot.boot_id_before:
        shaky = Shaky(1, boot_id)
        shaky.reboot = lambda _deadline: reboot  # type: ignore[attr-defined]
        trial = trial_of(plan, run, shaky)
        trial.reboot(soon())
        if boot_id == reboot.boot_id_after:
            assert steps.first_observation(run, trial, soon()) == BEFORE
            continue
        with pytest.raises(GuestRestarted):
            steps.first_observation(run, trial, soon())


@pytest.mark.parametrize(
    ("problem", "boot_id", "told"),
    [
        (GuestRestarted(doing="apt's last words: Setting up web"), RESTARTED,
            "restarted by itself while it was upgraded; apt's last words: Setting up web"),
        (ConnectionLost("the cable"), RESTARTED, "restarted by itself while it was upgraded"),
        (ConnectionLost("the cable"), BEFORE.boot_id, "the cable"),
    ],
)  # fmt: skip
def test_a_restart_in_mid_upgrade(
    plan: Plan,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    problem: Exception,
    boot_id: str,
    told: str,
) -> None:
    changing = []

    class Upgrader:
        def sources(self, *_args: object) -> tuple[str, ...]:
            changing.append(run.changing)
            return ()

        def simulate(self, *_args: object) -> Simulation:
            changing.append(run.changing)
            return Simulation()

        def apply(self, *_args: object) -> object:
            changing.append(run.changing)
            raise problem

    class Anything:
        statistics = connection = property(lambda self: self)
        socket = ""

        def forward(self, *_args: object) -> None: ...
        def allow(self, *_args: object) -> None: ...
        def enter(self, _deadline: Deadline) -> str:
            return boot_id

    monkeypatch.setattr(steps, "choose", lambda *_args: Upgrader())
    there = Anything()
    trial = trial_of(plan, run, there)
    with pytest.raises(type(problem) if told == "the cable" else GuestRestarted) as caught:
        steps.upgrade(run, trial, there, soon(), lambda: changing.append(run.changing))  # type: ignore[arg-type]
    assert told in caught.value.message
    assert changing == [False, False, False, True]


def test_before_anything_is_changed_the_control_is_not_asked(run: Run) -> None:
    with pytest.raises(GuestRestarted), recipe._the_control_too(run, cast(ControlTrial, None)):
        raise GuestRestarted


class ControlGuest(Shaky):
    """A guest in a thread of its own, reached all the time."""

    connection = property(lambda self: self)
    config = None

    def __enter__(self) -> ControlGuest:
        return self

    def __exit__(self, *_exc: object) -> None: ...


class Nothing:
    def __init__(self, *_args: object) -> None: ...

    def added_to(self, seen: Observation) -> Observation:
        return seen


Tried = Callable[[Iterator[Observation | None], Exception], RunRecord]
"""Of a clone that ended so while it was upgraded, and what was seen of the control, if anything."""


@pytest.fixture
def tried(stage: Stage, run: Run, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Tried:
    def try_it(shown: Iterator[Observation | None], problem: Exception) -> RunRecord:
        def look(*_args: object) -> Observation:
            seen = next(shown)
            if seen is None:
                raise GuestUnreachable("the clone is not running any more: it is off")
            return seen

        monkeypatch.setattr(trial_module, "observe", look)
        monkeypatch.setattr(trial_module, "run_checks", lambda **_given: GREEN)
        monkeypatch.setattr(control_module, "Aside", Nothing)
        monkeypatch.setattr(control_module, "ROUNDS", 1)
        monkeypatch.setattr(control_module, "LATER", 0.1)
        its = ControlTrial(
            plan, stage.hypervisor, run.folder, lambda _cut: cast(Guest, ControlGuest())
        )
        run.changing = True
        with (
            its,
            pytest.raises(type(problem)),
            run.phase(Phase.UPGRADE, 20),
            recipe._the_control_too(run, its),
        ):
            raise problem
        run.blame(problem)
        return run.record.model_copy(update={"decision": decide(run.facts)})

    return try_it


@pytest.mark.parametrize(
    ("starts", "verdict"),
    [
        ("aaaa", Verdict.FAIL),
        ("aabb", Verdict.INCONCLUSIVE),  # a little later
        ("abbb", Verdict.INCONCLUSIVE),  # a little earlier
    ],
)
def test_the_control_decides(tried: Tried, starts: str, verdict: Verdict) -> None:
    """The clone restarted while packages were installed: would it have done so without them?"""
    shown = (Observation(boot_id=one, kernel="6.1") for one in starts)
    record = tried(shown, GuestRestarted("while it was upgraded"))
    found, decision = record.facts.control, record.decision
    assert found is not None
    assert decision is not None
    assert (found.missing, found.restarted) == ("", verdict is Verdict.INCONCLUSIVE)
    assert decision.verdict is verdict
    assert (
        "the control, which was not upgraded, did not" in decision.reason
    ) is not found.restarted


@pytest.mark.parametrize(
    ("looks", "verdict", "told"),
    [
        ("aaaa", Verdict.FAIL, "no SSH; the control, which was not upgraded, still lets us in"),
        ("aa--", Verdict.INCONCLUSIVE, "no SSH; the control, which was not upgraded, cannot be"),
        ("a---", Verdict.INCONCLUSIVE, "no SSH; the control, which was not upgraded, cannot be"),
        ("----", Verdict.FAIL, "no SSH"),  # it never was there
    ],
)
def test_the_control_decides_as_well_where_the_clone_goes_away(
    tried: Tried, looks: str, verdict: Verdict, told: str
) -> None:
    seen = Observation(boot_id="a", kernel="6.1")
    record = tried((None if one == "-" else seen for one in looks), GuestUnreachable("no SSH"))
    assert record.decision is not None
    assert record.decision.verdict is verdict
    assert record.decision.reason.startswith(told)
    assert (record.decision.reason == "no SSH") is (looks == "----")
    assert record.facts.control is not None
    assert record.facts.control.gone is (verdict is Verdict.INCONCLUSIVE)
    if record.facts.control.gone:
        assert record.facts.control.missing == "it cannot be entered any more"
