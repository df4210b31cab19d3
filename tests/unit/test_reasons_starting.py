"""A unit that neither comes up nor fails: it is a cause where it is still so once all is known."""

from __future__ import annotations

import pytest

from sandbox.core.records import STARTING, Autopsy, Facts, Observation, UnitTrace
from sandbox.observe.diagnosis import read
from sandbox.verdict.assessment import assess
from sandbox.verdict.causes import suspects
from tests.support.fakes.sample_records import BAD_NGINX, broken_nginx, observation

UNIT, COMING = "nginx.service", "activating/start"
MARK = "%%0123456789abcdef%%"


def seen(state: str, restarts: int = 0) -> Observation:
    after = broken_nginx().facts.after
    assert after is not None
    again = {UNIT: restarts} if restarts else {}
    units = {**after.units, UNIT: state}
    return after.model_copy(update={"units": units, "failed_units": (), "restarts": again})


def known(trace: UnitTrace, restarts: int = 0) -> Facts:
    facts = broken_nginx().facts
    autopsy = Autopsy(units=(trace,), owners={"/etc/nginx/a.conf": "nginx"})
    return facts.model_copy(update={"after": seen(COMING, restarts), "autopsy": autopsy})


@pytest.mark.parametrize(
    ("control", "found"),
    [
        (None, (UNIT,)),
        (observation(), (UNIT,)),  # it runs there
        (seen(COMING), ()),  # it comes up there as slowly
        (seen("inactive/dead"), (UNIT,)),  # that is another matter
    ],
)
def test_what_is_still_coming_up_is_asked_about(
    control: Observation | None, found: tuple[str, ...]
) -> None:
    assert suspects(observation(), seen(COMING), control) == found


def test_it_comes_after_what_failed() -> None:
    after = seen(COMING)
    failed = after.model_copy(update={"failed_units": ("shop.service",)})
    assert suspects(observation(), failed, None) == ("shop.service", UNIT)


def test_one_that_is_still_starting_is_a_cause() -> None:
    (cause,) = assess(known(UnitTrace(unit=UNIT, state=STARTING))).causes
    assert cause.text == f"{UNIT} does not run since nginx {BAD_NGINX[0].old} -> " + (
        f"{BAD_NGINX[0].new}: it is still starting"
    )


def test_what_it_says_meanwhile_is_the_reason() -> None:
    log = ("Starting nginx", "error: /etc/nginx/a.conf: no answer from the licence server")
    (cause,) = assess(known(UnitTrace(unit=UNIT, state=STARTING, log=log))).causes
    assert cause.text.endswith("no answer from the licence server")


def test_one_that_has_come_up_meanwhile_is_none() -> None:
    assert assess(known(UnitTrace(unit=UNIT, log=("error: nobody is there",)))).causes == ()


def test_one_that_comes_up_again_and_again_does_not_stay_up() -> None:
    (cause,) = assess(known(UnitTrace(unit=UNIT, state=STARTING), restarts=7)).causes
    assert f"{UNIT} does not stay up since nginx" in cause.text


@pytest.mark.parametrize(
    ("sub", "state"),
    [("start", STARTING), ("auto-restart", ""), ("running", ""), ("failed", "")],
)
def test_systemd_says_whether_it_is_starting(sub: str, state: str) -> None:
    said = f"\n{MARK} show {UNIT}\nLoadState=loaded\nSubState={sub}\n{MARK} end\n"
    (trace,) = read(said, MARK, [UNIT]).units
    assert trace.state == state
