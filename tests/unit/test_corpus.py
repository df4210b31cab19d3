"""The corpus's cases are well made, and what its table counts is right. (tests/corpus runs it.)"""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.core.settings import shipped_scenarios
from sandbox.scenario import load_scenario
from tests.corpus.cases import CASES
from tests.corpus.corpus_case import DEMO, MIRRORS, TRUTHS, Case
from tests.corpus.corpus_image import OLD, VARIANTS
from tests.corpus.corpus_judge import Result, as_data, as_text, confusion, from_data, missed, score

GOOD = Result("good", "pass", "pass", "", "12 of 12 checks hold")
BAD = Result("bad", "fail", "fail", "nginx", "nginx.service does not run")


def many(count: int, one: Result = GOOD) -> list[Result]:
    return [replace(one, case=f"{one.case}{number}") for number in range(count)]


# -- the cases ----------------------------------------------------------------------------------


def test_there_are_enough_and_each_has_its_name() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.truth for case in CASES} == set(TRUTHS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_well_made(case: Case, tmp_path: Path) -> None:
    assert case.truth in TRUTHS
    assert case.mirror in MIRRORS
    assert case.image in ("", DEMO, OLD, *VARIANTS)
    assert bool(case.cause) == (case.truth != "pass"), "what is wrong has a cause"
    re.compile(case.cause)
    if case.checks and case.name != "check-does-not-compile":
        ast.parse(case.checks)
    if not case.shipped:
        (tmp_path / "scenario.yaml").write_text(case.scenario)
        load_scenario(tmp_path, shared=shipped_scenarios() / "shared")


@pytest.mark.parametrize("case", [c for c in CASES if c.cause], ids=lambda case: case.name)
def test_a_reason_that_says_nothing_does_not_name_the_cause(case: Case) -> None:
    """Else whatever the product said would be right: it always names what was upgraded."""
    names = {package.name for package in case.packages} | {"web01-site", "nginx", "linux-image"}
    for name in names:
        for said in (
            f"test_unrelated, which held before, fails after {name} 1.0 -> 2.0 and 3 others",
            f"2 checks that held before fail after 4 packages changed; first {name} is not well",
            f"{name}.service does not run since {name} 1.0 -> 2.0 (5 checks that held before fail)",
            f"the upgrade failed at {name}: apt exited with 100",
            f"the guest did not come back after {name} 1.0 (new): no SSH within 100 s",
            f"test_unrelated failed after the upgrade; asked again it held: 1 of 2 times ({name})",
            f"the package sources did not answer: no more is known of {name}",
            "a check failed already before the upgrade",
        ):
            assert not re.search(case.cause, said, re.IGNORECASE), said


# -- the table ----------------------------------------------------------------------------------


def test_all_right_misses_nothing() -> None:
    results = [*many(20), *many(20, BAD)]
    assert missed(results) == []
    assert confusion(results) == {("pass", "pass"): 20, ("fail", "fail"): 20}
    assert "40 of 40 verdicts are the truth" in as_text(results)


@pytest.mark.parametrize("truth", [truth for truth in TRUTHS if truth != "pass"])
def test_a_pass_that_is_not_the_truth_is_a_false_pass(truth: str) -> None:
    wrong = Result("x", truth, "pass", "", "")
    assert score([GOOD, wrong]).false_passes == ("x",)
    assert missed([*many(100), wrong]) == ["1 false passes, the goal is none"]


def test_one_false_fail_in_forty_is_allowed() -> None:
    wrong = Result("x", "pass", "fail", "", "")
    other = replace(wrong, case="y")
    assert missed([*many(39), wrong]) == []
    assert missed([*many(78), wrong, other]) == []
    assert missed([*many(77), wrong, other]) == ["2 false fails in 79, at most 1 in 40"]


def test_a_doubt_about_a_good_upgrade_is_neither() -> None:
    doubt = Result("x", "pass", "inconclusive", "", "")
    assert missed([*many(3), doubt]) == []
    assert "3 of 4 verdicts are the truth" in as_text([*many(3), doubt])


@pytest.mark.parametrize(
    ("reason", "findings", "named"),
    [
        ("NGINX does not run", (), "reason"),
        ("a check fails", ("it is nginx", "more"), "finding"),
        ("a check fails", ("more", "it is nginx"), ""),
        ("a check fails", (), ""),
    ],
)
def test_the_reason_or_the_first_finding_names_the_cause(
    reason: str, findings: tuple[str, ...], named: str
) -> None:
    assert replace(BAD, reason=reason, findings=findings).named == named


def test_four_of_five_causes_have_to_be_named() -> None:
    silent = replace(BAD, reason="?", case="silent")
    assert missed([*many(4, BAD), silent]) == []
    assert missed([*many(3, BAD), silent]) == ["75% of the causes are named, at least 80%"]
    assert "silent" in as_text([*many(3, BAD), silent])


def test_a_case_without_a_verdict_and_leftovers_are_missed_goals() -> None:
    broken = Result("x", "pass", "none", "", "OSError: no")
    assert missed([broken]) == ["x: no verdict: OSError: no"]
    assert "none" in as_text([broken])
    assert missed([replace(GOOD, left_behind="1 domains")]) == ["good left behind 1 domains"]
    assert missed([]) == ["nothing was rehearsed"]


def test_results_outlive_their_file() -> None:
    results = [GOOD, replace(BAD, findings=("a", "b"), seconds=1.5)]
    data = as_data(results)
    assert from_data(data) == results
    assert data["score"]["named"] == 1
    assert data["cases"]["bad"]["named"] == "reason"
