"""What a control and repetition say about a check that broke."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.records import (
    CheckEnd,
    CheckResult,
    CheckSession,
    Control,
    Facts,
    Outcome,
    Reboot,
    Verdict,
    Watch,
)
from sandbox.verdict.assessment import assess
from sandbox.verdict.decide import decide
from sandbox.verdict.diff import compare, without_drift
from sandbox.verdict.flakiness import CHANCE, excuse, flaky, on_control
from tests.support.fakes.sample_records import (
    broken_nginx,
    no_boot,
    observation,
    passing_facts,
    session,
)

NAME = "test_web.py::test_http"
RED = {NAME: "refused"}
UP = Reboot(happened=True, boot_id_before="a", boot_id_after="b")


def red_on_clone(*again: bool, control: Control | None = None) -> Facts:
    """One check broke; ``again``: what it said when it was asked again."""
    return passing_facts().model_copy(
        update={
            "checks_after": session(RED),
            "checks_again": tuple(session({} if held else RED, (NAME,)) for held in again),
            "control": control,
        }
    )


def control_of(before: Sequence[bool] = (True,), after: Sequence[bool] = (True,)) -> Control:
    """A control on which the check held or not, round by round."""
    return Control(
        before=observation(),
        checks_before=tuple(session({} if held else RED) for held in before),
        reboot=UP,
        after=observation(after=True),
        checks_after=tuple(session({} if held else RED) for held in after),
    )


def test_a_check_that_holds_on_the_control_and_breaks_here_is_the_upgrades_doing() -> None:
    decision = decide(
        red_on_clone(False, False, control=control_of((True, True, True), (True, True)))
    )
    assert decision.verdict is Verdict.FAIL
    assert "test_http, which held before, fails" in decision.reason


def test_a_check_that_fails_on_both_is_not_the_upgrades_fault() -> None:
    decision = decide(red_on_clone(False, False, control=control_of((True, True), (False,))))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reason == (
        "test_http failed after the upgrade: refused; it fails on the control, too, which was not "
        "upgraded"
    )


def test_a_check_that_holds_when_it_is_asked_again_proves_nothing() -> None:
    for control in (None, control_of()):
        decision = decide(red_on_clone(False, True, control=control))
        assert decision.verdict is Verdict.INCONCLUSIVE
        assert "asked again it held: 1 of 3 times after the upgrade" in decision.reason


def test_luck_is_counted() -> None:
    often = control_of(
        (True, False), (True, False)
    )  # one of two: three reds are luck once in eight
    decision = decide(red_on_clone(False, False, control=often))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "it is flaky: on the control, which was not upgraded, it held 2 of 4 times" in (
        decision.reason
    )
    seldom = control_of((True, True, False), (True, True, True))  # three reds: once in two hundred
    decision = decide(red_on_clone(False, False, control=seldom))
    assert decision.verdict is Verdict.FAIL
    assert "test_http is flaky: on the control it held 5 of 6 times" in decision.findings
    once = red_on_clone(control=seldom)  # and not confirmed: once in six
    assert decide(once).verdict is Verdict.INCONCLUSIVE


def test_luck_after_the_reboot_is_counted_apart() -> None:
    """Before it the check was steady on the control: that says nothing of a start."""
    twice = control_of((True, True, True), (False, False, True))
    decision = decide(red_on_clone(False, False, control=twice))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "it is flaky" in decision.reason


def test_a_red_that_could_not_be_confirmed_is_no_proof() -> None:
    silent = CheckSession(results=(), end=CheckEnd.CONNECTION_LOST, message="the way there broke")
    facts = red_on_clone().model_copy(update={"checks_again": (silent, silent)})
    decision = decide(facts)
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "it could not be asked again: the way there broke" in decision.reason
    confirmed = facts.model_copy(update={"checks_again": (silent, session(RED))})
    assert decide(confirmed).verdict is Verdict.FAIL


def test_a_flaky_check_that_holds_is_told_and_no_obstacle() -> None:
    facts = passing_facts().model_copy(update={"control": control_of((True, False), (True,))})
    decision = decide(facts)
    assert decision.verdict is Verdict.PASS
    assert "test_http is flaky: on the control it held 2 of 3 times" in decision.findings
    alone = session(names=(NAME,))
    decision = decide(facts.model_copy(update={"checks_before": alone, "checks_after": alone}))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "every check that holds is flaky" in decision.reason


def test_a_guest_that_does_not_come_back_even_without_the_upgrade() -> None:
    stuck = no_boot().facts
    assert stuck.reboot is not None
    control = control_of().model_copy(
        update={"reboot": stuck.reboot, "after": None, "checks_after": ()}
    )
    decision = decide(stuck.model_copy(update={"control": control}))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "does not come back from a reboot, upgraded or not: it stopped in" in decision.reason
    decision = decide(stuck.model_copy(update={"control": control_of()}))
    assert decision.verdict is Verdict.FAIL
    assert decision.reason.endswith("the control, which was not upgraded, did")


def test_a_guest_that_restarts_by_itself_even_without_the_upgrade() -> None:
    facts = passing_facts().model_copy(update={"watched": Watch(seconds=40, restarted=True)})
    for control, more in ((None, ""), (Control(missing="no room"), ""), (control_of(), "did not")):
        decision = decide(facts.model_copy(update={"control": control}))
        assert decision.verdict is Verdict.FAIL
        assert "restarted by itself while it was watched after the upgrade" in decision.reason
        assert decision.reason.endswith(more)
    alike = control_of().model_copy(update={"restarted": True})
    decision = decide(facts.model_copy(update={"control": alike}))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reason == "the guest restarts by itself, upgraded or not"


def test_without_a_control_the_report_says_so() -> None:
    for facts, verdict in ((passing_facts(), Verdict.PASS), (red_on_clone(), Verdict.FAIL)):
        missing = facts.model_copy(update={"control": Control(missing="200 MiB free")})
        assert decide(missing).verdict is verdict
        words = "not compared with a control: 200 MiB free"
        assert words in decide(missing).findings


rounds = st.lists(st.booleans(), max_size=4)


@given(again=rounds, before=rounds, after=rounds)
def test_a_control_can_excuse_and_never_acquit(
    again: list[bool], before: list[bool], after: list[bool]
) -> None:
    facts = red_on_clone(*again, control=control_of(before, after))
    verdict, reds = decide(facts).verdict, 1 + again.count(False)
    assert verdict is not Verdict.PASS
    held_everywhere = not any(again) and all(before) and all(after)
    if held_everywhere:
        assert verdict is Verdict.FAIL
    if verdict is Verdict.FAIL:
        assert not any(again)
        there = on_control(facts, NAME)
        if there.asked:
            assert (1 - there.held / there.asked) ** reds < CHANCE or not there.mixed
    else:
        assert excuse(facts, NAME)


@given(before=rounds, after=rounds)
def test_flaky_is_what_does_both(before: list[bool], after: list[bool]) -> None:
    facts = passing_facts().model_copy(update={"control": control_of(before, after)})
    said = [*before, *after]
    assert flaky(facts) == ((NAME,) if any(said) and not all(said) else ())


def test_what_a_reboot_breaks_here_and_there_is_not_flaky() -> None:
    assert flaky(red_on_clone(False, control=control_of((True, True), (False, False)))) == ()
    assert flaky(red_on_clone(False, control=control_of((True, True), (False, True)))) == (NAME,)
    assert flaky(red_on_clone(True, control=control_of((True, True), (False, False)))) == (NAME,)


def test_skipped_checks_say_nothing() -> None:
    skipped = CheckSession(results=(CheckResult(name=NAME, outcome=Outcome.SKIPPED),))
    control = control_of().model_copy(update={"checks_after": (skipped,)})
    assert on_control(red_on_clone(control=control), NAME).asked == 1


def test_what_differs_alike_on_the_control_is_left_out() -> None:
    facts = broken_nginx().facts
    assert facts.before is not None
    assert facts.after is not None
    found = compare(facts.before, facts.after)
    still = without_drift(found, compare(facts.before, facts.before))
    assert still.boot_seconds_control == facts.before.boot_seconds
    assert still.model_copy(update={"boot_seconds_control": 0.0}) == found, (
        "the control did not change"
    )
    alike = facts.after.model_copy(update={"packages": facts.before.packages})
    both = facts.model_copy(update={"control": Control(before=facts.before, after=alike)})
    shown = assess(both).differences
    assert shown is not None
    assert shown.packages == found.packages, "only an upgrade changes packages"
    gone = (shown.units, shown.failed_units, shown.ports_closed, shown.journal_errors)
    assert gone == ((), (), (), ())
    assert (shown.state, shown.conffiles) == (None, ())
    assert shown.drift == len(
        (*found.units, *found.failed_units, *found.ports_closed, *found.journal_errors)
    ) + len((*found.conffiles, *found.filesystems, found.state))


@pytest.mark.parametrize("count", [1, 2])
def test_log_lines_are_compared_by_their_kind(count: int) -> None:
    before = observation()
    here = before.model_copy(update={"journal_errors": ("app[12]: lost 7 packets",)})
    there = before.model_copy(update={"journal_errors": (f"app[99]: lost {count} packets",)})
    shown = without_drift(compare(before, here), compare(before, there))
    assert (shown.journal_errors, shown.drift) == ((), 1)
