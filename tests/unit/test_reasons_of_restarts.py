"""A unit that is started again and again runs when one looks; why it ends is told all the same."""

from __future__ import annotations

from sandbox.core.records import Autopsy, Control, Facts, Package, UnitTrace, Verdict
from sandbox.verdict.assessment import assess
from sandbox.verdict.decide import decide
from tests.support.fakes.sample_records import observation, passing_facts, session

UNIT = "shop.service"
NAME = "test_web.py::test_http"
UP = (f"Starting {UNIT} - the shop...", f"Started {UNIT} - the shop.")
DOWN = (
    "fatal: the price table is corrupt",
    f"{UNIT}: Main process exited, code=exited, status=1/FAILURE",
    f"{UNIT}: Failed with result 'exit-code'.",
    f"{UNIT}: Scheduled restart job, restart counter is at 1.",
    f"Stopped {UNIT} - the shop.",
)


def restarted(*log: str, state: str = "active/running") -> Facts:
    """One package was upgraded, and its unit ends now and then."""
    before = observation().model_copy(update={"packages": {"shop:all": Package(version="1")}})
    after = observation(after=True).model_copy(
        update={
            "packages": {"shop:all": Package(version="2")},
            "units": {UNIT: state},
            "restarts": {UNIT: 1},
        }
    )
    trace = UnitTrace(unit=UNIT, result="success", files=("/lib/shop.service",), log=log)
    return passing_facts().model_copy(
        update={
            "before": before,
            "after": after,
            "checks_after": session({NAME: "ended once"}),
            "autopsy": Autopsy(units=(trace,), owners={"/lib/shop.service": "shop"}),
        }
    )


def test_what_it_said_before_it_was_started_again_is_the_reason() -> None:
    decision = decide(restarted(*UP, *DOWN, *UP))
    assert decision.verdict is Verdict.FAIL
    assert decision.reason.startswith(
        "shop.service does not stay up since shop 1 -> 2: fatal: the price table is corrupt"
    )
    simple = decide(restarted(UP[1], *DOWN, UP[1], "listening, no error so far"))
    assert "the price table is corrupt" in simple.reason


def test_one_that_said_nothing_ends_all_the_same() -> None:
    for log in ((), UP):
        (cause,) = assess(restarted(*log)).causes
        assert cause.text.endswith("since shop 1 -> 2: it ends and is started again")


def test_each_cause_has_its_evidence() -> None:
    facts = restarted(*UP, *DOWN, state="failed/failed")
    nobody = facts.model_copy(
        update={"after": facts.after and facts.after.model_copy(update={"packages": {}})}
    )
    for one in (facts, nobody.model_copy(update={"before": facts.after})):
        for cause in assess(one).causes:
            assert any(cause.evidence)


def test_an_upgrade_that_passes_has_no_causes() -> None:
    facts = restarted(*UP, *DOWN, *UP).model_copy(
        update={"checks_after": session(), "control": Control()}
    )
    decision = decide(facts)
    assert (decision.verdict, decision.causes) == (Verdict.PASS, ())
