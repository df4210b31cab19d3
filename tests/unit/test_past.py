"""What earlier runs say about a check that broke, and what is remembered of this one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.core.records import CheckEnd, CheckResult, CheckSession, Facts, Outcome, Past, Verdict
from sandbox.report.html import render_html
from sandbox.report.view import view
from sandbox.verdict.decide import decide
from sandbox.verdict.flakiness import NAME_LIMIT, Rate, excuse, flaky, kept_name
from tests.support.fakes.sample_records import broken_nginx, passing_facts, session
from tests.unit.test_trust import NAME, RED, control_of, red_on_clone, rounds
from tests.unit.test_verdict_properties import facts_strategy, names, pasts
from workers.queue.check_results import MOST, tallies
from workers.queue.history import Mark, mark_of

histories = st.dictionaries(st.one_of(names, st.just(NAME)), pasts, max_size=4)


def before_now(facts: Facts, held: int, asked: int, name: str = NAME) -> Facts:
    return facts.model_copy(update={"past": {name: Past(held=held, asked=asked)}})


# -- the verdict ------------------------------------------------------------------------------


def test_a_check_that_was_flaky_before_proves_nothing() -> None:
    facts = red_on_clone(False, False, control=control_of((True, True), (True,)))
    assert decide(facts).verdict is Verdict.FAIL
    decision = decide(before_now(facts, 18, 36))
    assert decision.verdict is Verdict.INCONCLUSIVE
    # 3 times on the control and once on the clone before the upgrade, this time.
    assert decision.reason == (
        "test_http failed after the upgrade: refused; it is flaky: where nothing was upgraded it "
        "held 22 of 40 times"
    )


def test_without_a_control_the_past_is_all_there_is() -> None:
    assert decide(red_on_clone(False, False)).verdict is Verdict.FAIL
    decision = decide(before_now(red_on_clone(False, False), 29, 49))
    assert "where nothing was upgraded it held 30 of 50 times" in decision.reason


def test_what_fails_seldom_does_not_fail_three_times_in_a_row_by_luck() -> None:
    facts = before_now(red_on_clone(False, False, control=control_of()), 57, 60)
    decision = decide(facts)
    assert decision.verdict is Verdict.FAIL
    assert (
        decide(before_now(red_on_clone(control=control_of()), 40, 60)).verdict
        is Verdict.INCONCLUSIVE
    )


def test_the_past_of_another_check_says_nothing() -> None:
    facts = red_on_clone(False, False)
    assert decide(before_now(facts, 1, 60, "test_web.py::test_other")) == decide(facts)


def test_a_check_that_is_known_to_be_flaky_is_told_when_it_holds() -> None:
    decision = decide(before_now(passing_facts(), 40, 59))
    assert decision.verdict is Verdict.PASS
    assert "test_http is flaky: where nothing was upgraded it held 41 of 60 times" in (
        decision.findings
    )
    one_bad_moment = before_now(passing_facts(), 598, 599)
    assert decide(one_bad_moment) == decide(passing_facts())
    alone = session(names=(NAME,))
    facts = before_now(passing_facts(), 40, 59)
    decision = decide(facts.model_copy(update={"checks_before": alone, "checks_after": alone}))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "every check that holds is flaky (test_http: where nothing was" in decision.reason


@given(facts=facts_strategy, past=histories, more=histories)
def test_more_red_history_makes_no_fail(
    facts: Facts, past: dict[str, Past], more: dict[str, Past]
) -> None:
    facts, known = (facts.model_copy(update={"past": one}) for one in ({}, past))
    redder = {
        name: Past(held=one.held, asked=one.asked + (more[name].asked if name in more else 0))
        for name, one in past.items()
    }
    new = {name: Past(held=0, asked=one.asked) for name, one in more.items() if name not in past}
    worse = facts.model_copy(update={"past": redder | new})
    verdicts = decide(facts).verdict, decide(known).verdict, decide(worse).verdict
    for before, after in ((0, 1), (1, 2)):
        if verdicts[after] is Verdict.FAIL:
            assert verdicts[before] is Verdict.FAIL
        if verdicts[after] is Verdict.PASS:
            assert verdicts[before] is Verdict.PASS


@given(again=rounds, before=rounds, after=rounds, held=st.integers(0, 60), red=st.integers(0, 60))
@example(again=[False], before=[True, False], after=[True], held=60, red=1)  # dilutes the control's
def test_more_red_history_takes_no_excuse_away(
    again: list[bool], before: list[bool], after: list[bool], held: int, red: int
) -> None:
    facts = red_on_clone(*again, control=control_of(before, after))
    if excuse(facts, NAME):
        assert excuse(before_now(facts, held, held + red), NAME)
    if excuse(before_now(facts, held, held + red), NAME):
        assert excuse(before_now(facts, held, held + red + 1), NAME)
    assert decide(before_now(facts, held, held + red)).verdict is not Verdict.PASS


@given(facts=facts_strategy, held=st.dictionaries(st.one_of(names, st.just(NAME)), st.integers(0)))
def test_what_always_held_is_judged_as_without_history(facts: Facts, held: dict[str, int]) -> None:
    without = facts.model_copy(update={"past": {}})
    past = {name: Past(held=times, asked=times) for name, times in held.items()}
    known = facts.model_copy(update={"past": past})
    assert decide(known) == decide(without)
    assert flaky(known) == flaky(without)


def test_a_report_tells_the_numbers() -> None:
    record = broken_nginx()
    (name, *_) = [one.name for one in record.facts.checks_after.results]  # type: ignore[union-attr]
    known = record.model_copy(update={"facts": before_now(record.facts, 41, 60, name)})
    page = render_html(view(known, Path("/nowhere")), Path("/nowhere"))
    words = "before this run it held 41 of 60 times where nothing was upgraded"
    assert page.count(words) == 1
    assert words not in render_html(view(record, Path("/nowhere")), Path("/nowhere"))


# -- what is remembered -----------------------------------------------------------------------


def test_a_run_is_counted_apart_for_before_after_and_the_control() -> None:
    facts = red_on_clone(False, True, control=control_of((True, False), (True,)))
    (first, *others) = tallies(facts)
    assert (first.name, first.before, first.after) == (NAME, Rate(1, 1), Rate(1, 3))
    assert first.control == Rate(2, 3)
    assert all(one.held_always for one in others), "what failed comes first"


def test_where_the_connection_broke_no_check_answered() -> None:
    lost = session(RED).model_copy(update={"end": CheckEnd.CONNECTION_LOST})
    facts = passing_facts().model_copy(update={"checks_after": lost})
    assert {one.after for one in tallies(facts)} == {Rate(0, 0)}
    skipped = CheckSession(results=(CheckResult(name=NAME, outcome=Outcome.SKIPPED),))
    assert tallies(Facts(checks_before=skipped)) == ()
    assert tallies(Facts()) == ()


def test_no_more_is_remembered_than_a_database_should_take() -> None:
    results = [CheckResult(name=f"t.py::{n}", outcome=Outcome.PASSED) for n in range(3 * MOST)]
    red = CheckResult(name="t.py::red", outcome=Outcome.FAILED)
    found = tallies(Facts(checks_before=CheckSession(results=(*results, red))))
    assert len(found) == MOST
    assert found[0].name == "t.py::red"


@given(st.text(), st.text())
@example("a\x01", "a\x02")
@example("\ud800", "\\ud800")
@example("x" * 200 + "a", "x" * 200 + "b")
def test_the_name_that_is_kept_fits_any_database_and_is_one_checks(one: str, other: str) -> None:
    kept = kept_name(one)
    assert len(kept) <= NAME_LIMIT
    assert kept.isascii()
    assert kept.isprintable()
    assert kept_name(kept) == kept
    assert kept_name("shared/" + one).startswith("shared/")
    if one != other:
        assert kept_name(one) != kept_name(other)


@pytest.mark.parametrize(
    ("there", "after", "mark"),
    [
        (Rate(4, 4), Rate(1, 1), Mark.HELD),
        (Rate(4, 4), Rate(0, 0), Mark.HELD),
        (Rate(4, 4), Rate(0, 3), Mark.BROKE),
        (Rate(0, 0), Rate(0, 3), Mark.BROKE),
        (Rate(4, 4), Rate(1, 3), Mark.FLAKY),
        (Rate(3, 4), Rate(0, 3), Mark.FLAKY),
        (Rate(0, 4), Rate(1, 1), Mark.BROKEN),
        (Rate(0, 1), Rate(0, 0), Mark.BROKEN),
    ],
)
def test_what_a_check_did_in_a_run_has_one_word(there: Rate, after: Rate, mark: Mark) -> None:
    assert mark_of(there, after) is mark
