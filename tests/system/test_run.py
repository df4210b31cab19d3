"""A run in the making: what it writes down, whose fault an early end is, what comes next."""

from __future__ import annotations

import json
from typing import cast

import pytest

from sandbox.clone.create import CloneLease
from sandbox.clone.guest import Guest
from sandbox.core.deadline import Deadline
from sandbox.core.errors import (
    CommandFailed,
    ConnectionLost,
    DeadlineExceeded,
    GuestBusy,
    GuestRestarted,
    GuestUnreachable,
    HostError,
    NotFetched,
    RequestError,
    ToolMissing,
)
from sandbox.core.records import (
    CheckEnd,
    CheckResult,
    CheckSession,
    Control,
    Outcome,
    Phase,
    Reboot,
    UpgradeLog,
    UpgradeStatus,
    Verdict,
)
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.rehearsal import recipe
from sandbox.rehearsal.control import ControlTrial
from sandbox.rehearsal.plan import make_plan
from sandbox.rehearsal.run import Run, blame_for
from sandbox.rehearsal.steps import must_reboot, upgraded, worth_upgrading
from sandbox.rehearsal.trial import Trial
from tests.support.fakes.stage import GUEST, Stage

# -- a run in the making ----------------------------------------------------------------------


@pytest.fixture
def run(stage: Stage) -> Run:
    return Run(stage.new_folder(), stage.progress, stage.scenario())


def test_every_phase_is_recorded_however_it_ends(stage: Stage, run: Run) -> None:
    with run.phase(Phase.PLAN, 9) as deadline:
        assert deadline.phase == "plan"
        run.note("first")
    with pytest.raises(ValueError, match="x"), run.phase(Phase.CLONE, 5):
        raise ValueError("x")
    assert [(p.phase, p.ok, p.note) for p in stage.stored().phases] == [
        (Phase.PLAN, True, "first"),
        (Phase.CLONE, False, ""),
    ]
    assert run.record.phase is Phase.CLONE


def test_the_record_names_the_phase_as_soon_as_it_begins(stage: Stage, run: Run) -> None:
    """Without a reboot, verify follows the upgrade: nobody could tell it by what has ended."""
    with run.phase(Phase.UPGRADE, 9):
        assert stage.stored().phase is Phase.UPGRADE
    with run.phase(Phase.VERIFY, 9):
        assert stage.stored().phase is Phase.VERIFY
        assert stage.stored().phases[-1].phase is Phase.UPGRADE


def test_a_record_that_cannot_be_written_does_not_keep_the_clean_up_from_its_work(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: object, _record: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sandbox.core.store.RunFolder.save", full)
    cleaned = []
    with pytest.raises(HostError, match="cannot be written"), run.phase(Phase.CLEANUP, 9):
        cleaned.append(True)
    assert cleaned


def test_not_even_a_proved_failure_outlives_a_changed_source(stage: Stage, run: Run) -> None:
    run.learn(upgrade=log_of(UpgradeStatus.FAILED))
    run.void("the source was started", "again")
    record = run.end(CloneLease(stage.hypervisor, run.folder))
    assert record.decision is not None
    assert record.decision.verdict is Verdict.ERROR


def test_only_the_first_trouble_counts(run: Run) -> None:
    run.blame(HostError("first"))
    run.blame(RequestError("second"))
    assert run.facts.trouble is not None
    assert run.facts.trouble.message == "first"


def test_a_clone_given_up_is_an_error_and_is_not_kept(stage: Stage, run: Run) -> None:
    run.has_clone = True
    run.give_up(stage.hypervisor, "the disk is nearly full")
    run.blame(FileNotFoundError("overlay"))
    assert run.facts.trouble is not None
    assert run.facts.trouble.blame is Verdict.ERROR
    assert run.facts.trouble.message == "the disk is nearly full"
    assert not run.has_clone
    assert not run.folder.clone.exists()


def test_a_record_that_cannot_be_written_is_the_hosts_fault(run: Run) -> None:
    (run.folder.artifacts / "run.json").unlink()
    run.folder.artifacts.rmdir()
    with pytest.raises(HostError, match="cannot be written"):
        run.end(CloneLease(FakeHypervisor(), run.folder))


def test_the_record_is_whole_json_at_any_time(stage: Stage, run: Run) -> None:
    with run.phase(Phase.PLAN, 9):
        stored = json.loads((run.folder.artifacts / "run.json").read_text())
        assert stored["state"] == "running"
        assert stored["guest"] == GUEST


EARLY = (Phase.PLAN, Phase.CLONE, Phase.BOOT, Phase.BASELINE)
LATE = (Phase.UPGRADE, Phase.REBOOT, Phase.VERIFY)


@pytest.mark.parametrize(
    ("problem", "early", "late"),
    [
        (RequestError("x"), Verdict.REJECTED, Verdict.REJECTED),
        (HostError("x"), Verdict.ERROR, Verdict.ERROR),
        (ToolMissing("x"), Verdict.ERROR, Verdict.ERROR),
        (CommandFailed(("x",), 1, ""), Verdict.ERROR, Verdict.ERROR),
        (ConnectionLost("x"), Verdict.ERROR, Verdict.ERROR),
        (GuestUnreachable("x"), Verdict.INCONCLUSIVE, Verdict.FAIL),
        (GuestRestarted("soon"), Verdict.INCONCLUSIVE, Verdict.FAIL),
        (GuestBusy("x", 1), Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE),
        (NotFetched("x", 1), Verdict.ERROR, Verdict.ERROR),
        (GuestUnreachable("x", refused=True), Verdict.REJECTED, Verdict.FAIL),
        (OSError("x"), Verdict.ERROR, Verdict.ERROR),
        (ValueError("x"), Verdict.ERROR, Verdict.ERROR),
        (KeyboardInterrupt(), Verdict.ERROR, Verdict.ERROR),
    ],
)
def test_whose_fault_it_is(problem: BaseException, early: Verdict, late: Verdict) -> None:
    assert {blame_for(problem, phase, False) for phase in EARLY} == {early}
    assert {blame_for(problem, phase, True) for phase in LATE} == {late}
    assert blame_for(problem, Phase.CLEANUP, True) is early
    assert blame_for(problem, Phase.UPGRADE, False) is early, "nothing was upgraded yet"


def test_an_upgrade_that_never_ends_has_failed_but_nothing_else_has() -> None:
    late = DeadlineExceeded("x", 1)
    verdicts = {phase: blame_for(late, phase, True) for phase in Phase}
    assert verdicts.pop(Phase.UPGRADE) is Verdict.FAIL
    assert set(verdicts.values()) == {Verdict.ERROR}
    assert {blame_for(late, phase, False) for phase in Phase} == {Verdict.ERROR}


# -- decisions inside the recipe --------------------------------------------------------------


def checked(*outcomes: Outcome, end: CheckEnd = CheckEnd.COMPLETE) -> CheckSession:
    results = tuple(CheckResult(name=str(n), outcome=o) for n, o in enumerate(outcomes))
    return CheckSession(results=results, end=end)


@pytest.mark.parametrize(
    ("session", "worth"),
    [
        (checked(), False),
        (checked(Outcome.FAILED, Outcome.ERROR, Outcome.SKIPPED), False),
        (checked(Outcome.PASSED), True),
        (checked(Outcome.FAILED, Outcome.PASSED), True),
        *((checked(Outcome.PASSED, end=e), False) for e in CheckEnd if e is not CheckEnd.COMPLETE),
    ],
)
def test_an_upgrade_is_tried_only_where_a_verdict_can_come_of_it(
    session: CheckSession, worth: bool
) -> None:
    assert worth_upgrading(session) is worth


def log_of(status: UpgradeStatus) -> UpgradeLog:
    return UpgradeLog(manager="apt", status=status, requested="all")


CHANGED = (UpgradeStatus.APPLIED, UpgradeStatus.FAILED)


@pytest.mark.parametrize("status", list(UpgradeStatus))
def test_a_guest_is_observed_again_only_when_its_upgrade_changed_it(status: UpgradeStatus) -> None:
    assert upgraded(log_of(status)) is (status in CHANGED)


class Mute:
    """A guest that is there, and says nothing."""

    def __init__(self, *, comes_back: bool = True) -> None:
        self._comes_back = comes_back

    def run(self, script: str, _deadline: Deadline) -> None:
        assert script == ":"

    def reboot(self, _deadline: Deadline) -> Reboot:
        return Reboot(happened=self._comes_back, boot_id_after="b" if self._comes_back else "")


class ControlAsked:
    """A control that counts how often it is asked for what it found."""

    def __init__(self) -> None:
        self.times = 0

    def found(self, _deadline: Deadline) -> Control:
        self.times += 1
        return Control()


def trial_of(stage: Stage, run: Run, policy: str, guest: Mute) -> Trial:
    scenario = stage.scenario(f"source: {{guest: {GUEST}}}\nreboot: {policy}")
    plan = make_plan(scenario, stage.hypervisor, run.folder, False, Deadline(20, "plan"))
    return Trial(plan, cast(Guest, guest), run.folder.artifacts)


@pytest.mark.parametrize("back", [True, False])
def test_of_a_guest_that_does_not_come_back_the_control_is_asked(
    stage: Stage, run: Run, back: bool
) -> None:
    trial, control = trial_of(stage, run, "always", Mute(comes_back=back)), ControlAsked()
    trial.start = "a"
    assert recipe._reboot(run, trial, cast(ControlTrial, control)) is back
    assert run.facts.reboot is not None
    assert run.facts.reboot.happened is back
    assert control.times == (0 if back else 1)
    assert trial.start == ("b" if back else "a")


@pytest.mark.parametrize("status", list(UpgradeStatus))
@pytest.mark.parametrize("policy", ["always", "never"])
def test_the_stated_reboot_policy_asks_no_guest(
    stage: Stage, run: Run, status: UpgradeStatus, policy: str
) -> None:
    trial = trial_of(stage, run, policy, Mute())
    wanted = must_reboot(trial, log_of(status), Deadline(1, "x"))
    assert wanted is (policy == "always" and status is UpgradeStatus.APPLIED)
