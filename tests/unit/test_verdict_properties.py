"""What must hold of the verdict for any facts at all: above all, when it may be a pass."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sandbox.core.records import (
    CheckEnd,
    CheckResult,
    CheckSession,
    Control,
    Decision,
    Expectations,
    Facts,
    Observation,
    Outcome,
    Package,
    PackageChange,
    Past,
    Phase,
    Reboot,
    SecondStart,
    Trouble,
    UpgradeLog,
    UpgradeStatus,
    Verdict,
    Watch,
)
from sandbox.verdict.decide import decide
from tests.support.fakes.sample_records import passing_facts
from tests.support.fakes.sample_records import upgrade as upgraded

names = st.sampled_from(["t.py::a", "t.py::b", "t.py::c"])
words = st.text(max_size=8)
results = st.builds(CheckResult, name=names, outcome=st.sampled_from(Outcome), message=words)
mostly_passed = st.builds(CheckResult, name=names, outcome=st.just(Outcome.PASSED))
sessions = st.builds(
    CheckSession,
    results=st.lists(st.one_of(mostly_passed, results), max_size=4).map(tuple),
    end=st.one_of(st.just(CheckEnd.COMPLETE), st.sampled_from(CheckEnd)),
    message=words,
)
packages = st.dictionaries(
    st.sampled_from(["a:amd64", "b:amd64", "c"]),
    st.builds(
        Package,
        version=st.sampled_from("12"),
        status=st.sampled_from(["installed", "installed", "half-configured", "config-files"]),
    ),
)
observations = st.builds(
    Observation,
    boot_id=st.sampled_from(["", "x", "y"]),
    kernel=st.sampled_from("12"),
    kernels=st.sampled_from([(), ("1",), ("1", "2")]),
    packages=packages,
)
patterns = st.lists(st.sampled_from(["a", "b*", "*"]), max_size=1).map(tuple)
logs = st.builds(
    UpgradeLog,
    manager=st.just("apt"),
    requested=words,
    status=st.one_of(st.just(UpgradeStatus.APPLIED), st.sampled_from(UpgradeStatus)),
    changes=st.just((PackageChange(name="a", old="1", new="2"),)),
    error=words,
    failed_package=words,
    not_configured=st.sampled_from([(), (), ("b",)]),
)
reboots = st.builds(
    Reboot,
    happened=st.booleans(),
    message=words,
    boot_id_after=st.sampled_from(["", "x", "y"]),
)
rounds = st.lists(sessions, max_size=3).map(tuple)
controls = st.builds(
    Control,
    missing=st.sampled_from(["", "", "no room"]),
    before=st.none() | observations,
    checks_before=rounds,
    reboot=st.none() | reboots,
    after=st.none() | observations,
    checks_after=rounds,
    restarted=st.booleans(),
    gone=st.booleans(),
)
troubles = st.builds(
    Trouble,
    blame=st.sampled_from(Verdict),
    phase=st.sampled_from(Phase),
    message=words,
    restarted=st.booleans(),
    gone=st.booleans(),
)
pasts = st.builds(lambda held, red: Past(held=held, asked=held + red), *[st.integers(0, 60)] * 2)
any_facts = st.builds(
    Facts,
    expectations=st.builds(
        Expectations,
        kernel=st.sampled_from([None, None, "newest", "unchanged", "2"]),
        must_change=patterns,
        must_not_change=patterns,
        allow_nothing=st.booleans(),
    ),
    booted=st.booleans(),
    before=st.none() | observations,
    checks_before=st.none() | sessions,
    upgrade=st.none() | logs,
    reboot=st.none() | reboots,
    after=st.none() | observations,
    checks_after=st.none() | sessions,
    watched=st.none() | st.builds(Watch, seconds=st.just(40.0), restarted=st.booleans()),
    checks_again=rounds,
    second_start=st.none() | st.just(SecondStart(first=131.0, second=24.0)),
    control=st.none() | controls,
    trouble=st.none() | st.none() | troubles,
    past=st.just({}) | st.dictionaries(names, pasts, max_size=2),
)


@st.composite
def near_pass(draw: st.DrawFn) -> Facts:
    """A rehearsal in order with up to two of its facts replaced: passes often enough."""
    other = draw(any_facts)
    fields = draw(st.lists(st.sampled_from([*Facts.model_fields]), max_size=2))
    update = {field: getattr(other, field) for field in fields}
    if draw(st.booleans()):
        update["expectations"] = Expectations()
    return passing_facts().model_copy(update=update)


facts_strategy = st.one_of(any_facts, near_pass())


def passed_names(session: CheckSession | None) -> set[str]:
    """The checks that passed each time they were reported."""
    results = session.results if session else ()
    bad = {r.name for r in results if r.outcome is not Outcome.PASSED}
    return {r.name for r in results} - bad


def is_complete(session: CheckSession | None) -> bool:
    return session is not None and session.end is CheckEnd.COMPLETE


@settings(max_examples=400)
@given(facts_strategy)
@example(passing_facts())
def test_a_pass_is_always_proved(facts: Facts) -> None:
    if decide(facts).verdict is not Verdict.PASS:
        return
    assert facts.booted
    assert facts.before
    assert facts.upgrade
    assert facts.trouble is None
    assert facts.upgrade.status in (UpgradeStatus.APPLIED, UpgradeStatus.NOTHING)
    assert facts.reboot is None or facts.reboot.happened
    assert not (facts.watched and facts.watched.restarted)
    if facts.after:
        start = facts.reboot.boot_id_after if facts.reboot else facts.before.boot_id
        assert not start or facts.after.boot_id in (start, facts.before.boot_id)
    assert facts.checks_before
    assert is_complete(facts.checks_before)
    assert passed_names(facts.checks_before)
    bad = (Outcome.FAILED, Outcome.ERROR)
    assert not any(r.outcome in bad for r in facts.checks_before.results)
    if facts.upgrade.status is UpgradeStatus.NOTHING:
        assert facts.expectations.allow_nothing
        if facts.after is None and facts.checks_after is None:
            return
    assert facts.after
    assert is_complete(facts.checks_after)
    assert passed_names(facts.checks_before) <= passed_names(facts.checks_after)
    assert set(facts.after.not_configured) <= set(facts.before.not_configured)


@given(facts_strategy)
@example(Facts(upgrade=upgraded(status=UpgradeStatus.IMPOSSIBLE, error="\x1c")))
def test_a_verdict_is_always_given_with_a_line_for_people(facts: Facts) -> None:
    decision = decide(facts)
    assert isinstance(decision, Decision)
    assert decision.reason.strip()
    assert "\n" not in decision.reason
    assert decide(facts) == decision


@given(facts_strategy)
def test_a_check_that_breaks_never_passes(facts: Facts) -> None:
    name = "t.py::broken"
    before = facts.checks_before or CheckSession(results=())
    after = facts.checks_after or CheckSession(results=())
    passed = CheckResult(name=name, outcome=Outcome.PASSED)
    failed = CheckResult(name=name, outcome=Outcome.FAILED)
    worse = facts.model_copy(
        update={
            "checks_before": before.model_copy(update={"results": (*before.results, passed)}),
            "checks_after": after.model_copy(update={"results": (*after.results, failed)}),
        }
    )
    assert decide(worse).verdict is not Verdict.PASS


@given(facts_strategy, troubles)
def test_trouble_never_passes(facts: Facts, met: Trouble) -> None:
    assert decide(facts.model_copy(update={"trouble": met})).verdict is not Verdict.PASS


@given(
    facts_strategy,
    st.sampled_from(["before", "checks_before", "upgrade"]),
)
def test_a_missing_fact_never_passes(facts: Facts, field: str) -> None:
    assert decide(facts.model_copy(update={field: None})).verdict is not Verdict.PASS


@given(facts_strategy)
def test_a_failed_upgrade_without_trouble_always_fails(facts: Facts) -> None:
    failed = facts.model_copy(
        update={"trouble": None, "upgrade": upgraded(status=UpgradeStatus.FAILED)}
    )
    assert decide(failed).verdict is Verdict.FAIL


@given(facts_strategy)
def test_losing_the_last_check_never_passes(facts: Facts) -> None:
    empty = CheckSession(results=())
    without = facts.model_copy(update={"checks_before": empty})
    assert decide(without).verdict is not Verdict.PASS
