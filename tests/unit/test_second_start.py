"""A start after the upgrade that took much longer: what broke in it is asked after another one."""

from __future__ import annotations

import pytest

from sandbox.checks.compare import slower_start
from sandbox.core.records import (
    CheckSession,
    Control,
    Facts,
    Phase,
    PhaseTime,
    RunRecord,
    SecondStart,
    Verdict,
    Watch,
)
from sandbox.rehearsal.retest import worth_another_start
from sandbox.verdict.decide import decide
from tests.support.fakes.sample_records import observation, passing_facts, session
from workers.worker.rehearsal_executor import evidence_of

NAME = "test_web.py::test_http"
RED = session({NAME: "refused"})
GREEN = session()
SLOW = observation(after=True).model_copy(update={"boot_seconds": 131.0})


QUICK_CONTROL = Control(
    before=observation(), after=observation(after=True), checks_after=(GREEN, GREEN)
)


def slow_and_red(**more: object) -> Facts:
    broke = {"after": SLOW, "checks_after": RED, "checks_again": (RED, RED)}
    return passing_facts().model_copy(update=broke | more)


@pytest.mark.parametrize(
    ("worth", "facts"),
    [
        (True, slow_and_red()),
        (False, slow_and_red(checks_after=GREEN, checks_again=())),
        (False, slow_and_red(checks_again=(GREEN,))),  # it proves nothing already
        (False, slow_and_red(after=observation(after=True))),  # as quick as the one before
        (False, slow_and_red(after=SLOW.model_copy(update={"boot_id": observation().boot_id}))),
        (False, slow_and_red(watched=Watch(seconds=150))),  # what dies late would live again
        (False, slow_and_red(control=Control(checks_after=(RED,)))),  # red on the control, too
        (False, slow_and_red(control=QUICK_CONTROL)),  # started beside it: it was not the host
        (True, slow_and_red(control=QUICK_CONTROL.model_copy(update={"after": SLOW}))),
        (True, slow_and_red(control=Control(missing="no memory"))),
        (False, slow_and_red(reboot=None)),  # it restarted by itself, or was not to
        (False, slow_and_red(after=None)),
        (False, Facts()),
    ],
)
def test_only_what_broke_in_a_slow_start_is_worth_another(worth: bool, facts: Facts) -> None:
    assert worth_another_start(facts) is worth


@pytest.mark.parametrize(("last", "verdict"), [(GREEN, Verdict.INCONCLUSIVE), (RED, Verdict.FAIL)])
def test_another_start_can_excuse_and_never_acquit(last: CheckSession, verdict: Verdict) -> None:
    decision = decide(
        slow_and_red(
            checks_again=(RED, RED, last), second_start=SecondStart(first=131, second=24.4)
        )
    )
    assert decision.verdict is verdict
    told = "the start after the upgrade took 131 s, so the guest was started once more: 24 s"
    assert told in decision.findings
    if verdict is Verdict.INCONCLUSIVE:
        assert decision.reason.endswith(
            "after another start it held: 1 of 4 times after the upgrade"
        )
        assert "a busy host" in decision.hint


def test_what_held_before_the_second_start_was_not_helped_by_it() -> None:
    facts = slow_and_red(
        checks_again=(RED, GREEN, RED), second_start=SecondStart(first=131, second=24)
    )
    decision = decide(facts)
    assert decision.reason.endswith("asked again it held: 1 of 4 times after the upgrade")
    assert "a busy host" not in decision.hint


def test_a_second_start_after_which_nothing_could_be_asked_changes_nothing() -> None:
    """The host failed in between: what was found before stands."""
    cut = slow_and_red(checks_again=(), second_start=SecondStart(first=131, second=24))
    assert decide(cut).verdict is Verdict.FAIL


def test_a_start_that_has_not_ended_is_as_slow_as_it_is_so_far() -> None:
    before, endless = observation(), SLOW.model_copy(update={"boot_seconds": 0.0, "uptime": 140.0})
    assert "the start took 140 s" in slower_start(before, endless)
    assert not slower_start(before, endless.model_copy(update={"uptime": 30.0}))


def test_a_phase_that_is_repeated_is_told_as_a_whole() -> None:
    times = [
        PhaseTime(phase=phase, started=1.0, seconds=seconds, ok=True)
        for phase, seconds in ((Phase.REBOOT, 90.0), (Phase.VERIFY, 5.0), (Phase.REBOOT, 30.0))
    ]
    record = RunRecord(
        id="a",
        tool_version="1",
        scenario="s",
        guest="web01",
        started=1.0,
        phases=tuple(times),
        decision=decide(Facts()),
    )
    assert evidence_of(record)["seconds"] == {"reboot": 120.0, "verify": 5.0}
