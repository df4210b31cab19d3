"""The verdict table of the design, line by line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sandbox.core.records import (
    CheckEnd,
    CheckResult,
    CheckSession,
    Control,
    Destination,
    Expectations,
    Facts,
    Ledger,
    Observation,
    Outcome,
    Package,
    PackageChange,
    Phase,
    Reboot,
    Trouble,
    UpgradeStatus,
    Verdict,
)
from sandbox.verdict.decide import decide
from tests.support.fakes.sample_records import (
    BAD_NGINX,
    CHANGES,
    NEW_KERNEL,
    OLD_KERNEL,
    passing_facts,
    session,
)
from tests.support.fakes.sample_records import observation as observed
from tests.support.fakes.sample_records import upgrade as upgraded

Change = Callable[[Facts], Facts]
FIRST = "test_web.py::test_http"
SECOND = "test_web.py::test_page[/]"


def sets(**values: Any) -> Change:
    return lambda facts: facts.model_copy(update=values)


def expects(**values: Any) -> Change:
    return sets(expectations=Expectations(**values))


def ended(end: CheckEnd, when: str, *, results: bool = True) -> Change:
    kept = session().results if results else ()
    return sets(**{f"checks_{when}": CheckSession(results=kept, end=end, message="see test_slow")})


def outcomes(when: str, **changed: Outcome | None) -> Change:
    """The session with other outcomes; ``None`` drops a check. Keys: first, second, others."""

    def outcome(result: CheckResult) -> Outcome | None:
        key = {FIRST: "first", SECOND: "second"}.get(result.name, "others")
        return changed.get(key, result.outcome)

    results = tuple(
        r.model_copy(update={"outcome": outcome(r), "message": "refused"})
        for r in session().results
        if outcome(r)
    )
    return sets(**{f"checks_{when}": CheckSession(results=results)})


def status(status: UpgradeStatus, **values: Any) -> Change:
    return sets(upgrade=upgraded(status=status, **values))


def half_configured(when: str, name: str = "openssl:amd64") -> Change:
    def change(facts: Facts) -> Facts:
        old: Observation = getattr(facts, when)
        packages = {**old.packages, name: Package(version="1", status="half-configured")}
        return facts.model_copy(update={when: old.model_copy(update={"packages": packages})})

    return change


def after_has(**values: Any) -> Change:
    return lambda facts: facts.model_copy(
        update={"after": facts.after.model_copy(update=values) if facts.after else None}
    )


def removed(name: str) -> Change:
    def change(facts: Facts) -> Facts:
        assert facts.after
        packages = {n: p for n, p in facts.after.packages.items() if n != name}
        return after_has(packages=packages)(facts)

    return change


def trouble(blame: Verdict, phase: Phase = Phase.UPGRADE) -> Change:
    return sets(trouble=Trouble(blame=blame, phase=phase, message="it broke", hint="mend it"))


UNVERIFIED = sets(after=None, checks_after=None, reboot=None)
NOTHING = status(UpgradeStatus.NOTHING, changes=())
SAME = sets(after=observed(after=False), reboot=None)
NO_CHECKS = CheckSession(results=())
CONTROL_DOES = sets(control=Control(restarted=True))
RESTARTED = sets(
    trouble=Trouble(
        blame=Verdict.FAIL,
        phase=Phase.UPGRADE,
        restarted=True,
        message="the guest restarted by itself while it was upgraded",
        hint="see its console",
    )
)
GONE = sets(
    trouble=Trouble(
        blame=Verdict.FAIL, phase=Phase.VERIFY, gone=True, message="the clone is off", hint="see"
    )
)


def BROKEN_BEFORE(facts: Facts) -> Facts:
    """A package that nobody upgrades was half-configured, and is."""
    return half_configured("after", "old:amd64")(half_configured("before", "old:amd64")(facts))


def STAYED(facts: Facts) -> Facts:
    """Nobody rebooted it, and it did not by itself."""
    return sets(reboot=None)(after_has(boot_id="27d4a0c2-before")(facts))


TABLE: list[tuple[str, list[Change], str, str]] = [
    ("all in order", [], "pass", "7 packages applied, 12 of 12 checks hold after, kernel"),
    ("no reboot wanted", [STAYED], "pass", "12 of 12 checks hold"),
    ("only one check", [sets(checks_before=session(names=(FIRST,)), checks_after=session(
        names=(FIRST,)))], "pass", "1 of 1 checks hold"),
    ("a check skipped on both sides", [outcomes("before", first=Outcome.SKIPPED), outcomes(
        "after", first=Outcome.SKIPPED)], "pass", "11 of 11 checks hold"),
    ("a check that is new after", [outcomes("before", first=None)], "pass", "11 of 11"),
    ("a script that changes no package", [SAME, status(UpgradeStatus.APPLIED, changes=()),
        expects()], "pass", "the upgrade was applied"),
    ("half-configured before and still", [half_configured("before"), half_configured("after")],
        "pass", "applied"),
    # The request.
    ("unknown guest", [trouble(Verdict.REJECTED, Phase.PLAN)], "rejected", "it broke"),
    ("a version that does not exist", [UNVERIFIED, status(UpgradeStatus.IMPOSSIBLE,
        error="nginx 9 does not exist")], "rejected", "nginx 9 does not exist"),
    # The sandbox.
    ("host trouble although all checks held", [trouble(Verdict.ERROR)], "error",
        "it broke (in phase upgrade)"),
    ("trouble that blames nobody", [trouble(Verdict.PASS)], "error", "it broke"),
    ("clean-up failed", [trouble(Verdict.ERROR, Phase.CLEANUP)], "error", "it broke"),
    ("mirror away", [UNVERIFIED, status(UpgradeStatus.UNAVAILABLE, error="503")], "error",
        "the package sources did not answer: 503"),
    ("connection lost before", [ended(CheckEnd.CONNECTION_LOST, "before")], "error", "before"),
    ("connection lost after", [ended(CheckEnd.CONNECTION_LOST, "after")], "error", "after"),
    ("checks that fail with the connection", [outcomes("after", first=Outcome.FAILED),
        lambda f: f.model_copy(update={"checks_after": f.checks_after.model_copy(update={  # type: ignore[union-attr]
            "end": CheckEnd.CONNECTION_LOST})})], "error", "the connection to the clone broke"),
    ("not booted, no reason", [sets(booted=False)], "error", "that the clone was reached"),
    ("no observation before", [sets(before=None)], "error", "the observation before"),
    ("no checks before", [sets(checks_before=None)], "error", "the checks before"),
    ("no upgrade", [sets(upgrade=None)], "error", "the upgrade's log"),
    ("no observation after", [sets(after=None)], "error", "the observation after"),
    ("no checks after", [sets(checks_after=None)], "error", "the checks after"),
    ("a reboot without a new boot id", [after_has(boot_id="27d4a0c2-before")], "error",
        "the boot id did not change"),
    # The upgrade.
    ("postinst fails", [UNVERIFIED, status(UpgradeStatus.FAILED, failed_package="nginx",
        error="post-installation script returned 1")], "fail",
        "the upgrade failed at nginx: post-installation script returned 1"),
    ("it fails with no word", [UNVERIFIED, status(UpgradeStatus.FAILED, exit_status=100)],
        "fail", "the upgrade failed: apt exited with 100"),
    ("dpkg half-way by its log", [sets(upgrade=upgraded(not_configured=("nginx",)))], "fail",
        "left nginx half-configured"),
    ("dpkg half-way as observed", [half_configured("after")], "fail", "openssl"),
    ("half-configured before, another after", [half_configured("before"), half_configured(
        "after", "nginx:amd64")], "fail", "left nginx half-configured"),
    ("did not come back", [sets(reboot=Reboot(happened=False, message="kernel panic"),
        after=None, checks_after=None)], "fail", "did not come back after the upgrade: kernel"),
    ("did not come back after one package", [sets(reboot=Reboot(happened=False, message="panic"),
        after=None, checks_after=None, upgrade=upgraded(changes=(PackageChange(name="grub-pc",
        old="2", new="3"),)))], "fail", "did not come back after grub-pc 2 -> 3: panic"),
    ("trouble that blames the upgrade", [trouble(Verdict.FAIL, Phase.REBOOT), sets(after=None)],
        "fail", "it broke"),
    ("old kernel runs", [after_has(kernel=OLD_KERNEL)], "fail",
        f"runs kernel {OLD_KERNEL}, expected the newest installed {NEW_KERNEL}"),
    ("old kernel, and nobody rebooted", [after_has(kernel=OLD_KERNEL), STAYED], "fail",
        "(no reboot was made)"),
    ("the kernel had to stay", [expects(kernel="unchanged")], "fail", OLD_KERNEL),
    ("an exact kernel", [expects(kernel="6.1.0-99")], "fail", "expected 6.1.0-99"),
    ("the exact kernel runs", [expects(kernel=NEW_KERNEL)], "pass", "applied"),
    ("must change and did", [expects(must_change=("nginx", "linux-image-*"))], "pass", "applied"),
    ("must change and did not", [expects(must_change=("python3*",))], "fail",
        "python3* had to change and did not"),
    ("must change and was removed", [expects(must_change=("openssh-server",)), removed(
        "openssh-server:amd64")], "fail", "openssh-server had to change and did not"),
    ("must not change and was removed", [expects(must_not_change=("openssh*",)), removed(
        "openssh-server:amd64")], "fail", "(removed), and openssh* must not change"),
    ("must not change and did", [expects(must_not_change=("lib*",))], "fail",
        "libssl3 3.0.16-1 -> 3.0.17-1~deb12u2, and lib* must not change"),
    ("must not change and did not", [expects(must_not_change=("python3*",))], "pass", "applied"),
    ("must not change, with architecture", [expects(must_not_change=("nginx:amd64",))], "fail",
        "nginx"),
    ("a check breaks", [outcomes("after", first=Outcome.FAILED)], "fail",
        "test_http, which held before, fails after 7 packages changed: refused"),
    ("two checks break", [outcomes("after", first=Outcome.FAILED, second=Outcome.ERROR)], "fail",
        "2 checks that held before fail after 7 packages changed; first test_http: refused"),
    ("a check errors", [outcomes("after", first=Outcome.ERROR)], "fail", "test_http"),
    ("a check breaks without a reboot", [outcomes("after", first=Outcome.FAILED),
        STAYED], "fail", "test_http"),
    ("a reboot that nobody asked for", [sets(reboot=None)], "fail",
        "the guest restarted by itself after the upgrade"),
    ("one more reboot than we asked for", [after_has(boot_id="another")], "fail",
        "the guest restarted by itself after the upgrade"),
    ("it restarts by itself meanwhile", [UNVERIFIED, RESTARTED], "fail",
        "the guest restarted by itself while it was upgraded"),
    ("and the control does not", [UNVERIFIED, RESTARTED, sets(control=Control())], "fail",
        "while it was upgraded; the control, which was not upgraded, did not"),
    ("and the control is not known", [UNVERIFIED, RESTARTED, sets(control=Control(missing="late"))],
        "fail", "the guest restarted by itself while it was upgraded"),
    ("it goes away", [UNVERIFIED, GONE], "fail", "the clone is off"),
    ("it goes away, and the control does not", [UNVERIFIED, GONE, sets(control=Control(
        checks_after=(NO_CHECKS,)))], "fail", "is off; the control, which was not upgraded, still"),
    ("it goes away, and of the control nothing is known", [UNVERIFIED, GONE, sets(control=Control(
        missing="it took too long", checks_after=(NO_CHECKS,)))], "fail", "the clone is off"),
    ("a proof beside a check broken before", [outcomes("before", second=Outcome.FAILED), outcomes(
        "after", first=Outcome.FAILED)], "fail", "test_http"),
    ("a proof, then clean-up fails", [outcomes("after", first=Outcome.FAILED), trouble(
        Verdict.ERROR, Phase.CLEANUP)], "fail", "test_http"),
    ("a check hangs after", [ended(CheckEnd.TIMEOUT, "after")], "fail", "hangs after the upgrade"),
    ("a broken package of before, and one more", [sets(upgrade=upgraded(
        status=UpgradeStatus.FAILED, failed_package="old", error="old: no", not_configured=("old",
        "nginx"))), BROKEN_BEFORE], "fail", "left nginx half-configured"),
    ("a package that was broken, and was to be upgraded", [sets(upgrade=upgraded(
        status=UpgradeStatus.FAILED, failed_package="nginx", error="nginx: no")), half_configured(
        "before", "nginx:amd64")], "fail", "the upgrade failed at nginx"),
    # Nobody may conclude anything.
    ("it goes away, and the control does so, too", [UNVERIFIED, GONE, sets(control=Control(
        missing="the clone is off", checks_after=(NO_CHECKS,), gone=True))], "inconclusive",
        "the clone is off; the control, which was not upgraded, cannot be entered any more either"),
    ("dpkg was interrupted before", [UNVERIFIED, status(UpgradeStatus.UNFIT,
        error="dpkg was interrupted, you must run it")], "inconclusive",
        "package manager was broken before the upgrade: dpkg was interrupted"),
    ("a package of before stays broken", [sets(upgrade=upgraded(status=UpgradeStatus.FAILED,
        failed_package="old", error="old: no licence", not_configured=("old",))), BROKEN_BEFORE],
        "inconclusive", "old was half-configured before the upgrade, and still cannot be"),
    ("it restarts by itself meanwhile, as the control does", [UNVERIFIED, RESTARTED, CONTROL_DOES],
        "inconclusive", "the guest restarts by itself, upgraded or not"),
    ("a reboot that nobody asked for, on both", [sets(reboot=None), CONTROL_DOES], "inconclusive",
        "the guest restarts by itself, upgraded or not"),
    ("the control alone restarts by itself", [CONTROL_DOES], "pass", "applied"),
    ("the host fails, and the control restarts", [trouble(Verdict.ERROR), CONTROL_DOES], "error",
        "it broke"),
    ("does not boot before", [trouble(Verdict.INCONCLUSIVE, Phase.BOOT), sets(booted=False)],
        "inconclusive", "it broke"),
    ("broken before", [outcomes("before", first=Outcome.FAILED)], "inconclusive",
        "test_http failed already before the upgrade: refused; it holds after"),
    ("broken before and after", [outcomes("before", first=Outcome.ERROR), outcomes(
        "after", first=Outcome.FAILED)], "inconclusive", "test_http failed already before"),
    ("all broken before", [outcomes("before", first=Outcome.FAILED, second=Outcome.FAILED,
        others=Outcome.FAILED)], "inconclusive", "failed already before"),
    ("broken before, so never upgraded", [UNVERIFIED, sets(upgrade=None), outcomes(
        "before", first=Outcome.FAILED)], "inconclusive", "failed already before"),
    ("zero checks", [sets(checks_before=NO_CHECKS, checks_after=NO_CHECKS)], "inconclusive",
        "no check ran"),
    ("all skipped", [outcomes("before", first=Outcome.SKIPPED, second=Outcome.SKIPPED,
        others=Outcome.SKIPPED)], "inconclusive", "every check was skipped"),
    ("hangs before", [ended(CheckEnd.TIMEOUT, "before")], "inconclusive",
        "a check hung before the upgrade: see test_slow"),
    ("hangs before and after", [ended(CheckEnd.TIMEOUT, "before"), ended(
        CheckEnd.TIMEOUT, "after")], "inconclusive", "a check hung before"),
    ("checks die before", [ended(CheckEnd.DIED, "before")], "inconclusive", "ended early before"),
    ("checks cannot be collected", [ended(CheckEnd.BROKEN, "before", results=False), UNVERIFIED,
        sets(upgrade=None)], "inconclusive", "could not be collected before"),
    ("checks die after", [ended(CheckEnd.DIED, "after")], "inconclusive", "ended early after"),
    ("not collected after", [ended(CheckEnd.BROKEN, "after", results=False)], "inconclusive",
        "could not be collected after"),
    ("missing after", [outcomes("after", first=None)], "inconclusive", "gave no answer after"),
    ("skipped after", [outcomes("after", first=Outcome.SKIPPED)], "inconclusive", "no answer"),
    ("fails after, unknown before", [outcomes("before", first=None), outcomes(
        "after", first=Outcome.FAILED)], "inconclusive", "was not judged before: refused"),
    ("newest kernel not known", [after_has(kernels=())], "inconclusive", "no installed kernel"),
    # Nothing to upgrade.
    ("nothing, verified", [NOTHING, SAME, expects()], "pass", "nothing to upgrade, 12 of 12"),
    ("nothing, not verified", [NOTHING, UNVERIFIED, expects()], "pass", "nothing to upgrade, 12"),
    ("nothing, but wanted", [NOTHING, UNVERIFIED, expects(allow_nothing=False)], "inconclusive",
        "there was nothing to upgrade"),
    ("nothing, but had to change", [NOTHING, UNVERIFIED, expects(must_change=("nginx",))], "fail",
        "nginx had to change"),
    ("nothing, and no checks", [NOTHING, UNVERIFIED, expects(), sets(checks_before=NO_CHECKS)],
        "inconclusive", "no check ran"),
    ("nothing, half verified", [NOTHING, SAME, sets(checks_after=None)], "error", "checks after"),
    ("nothing, and a check broke", [NOTHING, SAME, expects(), outcomes(
        "after", first=Outcome.FAILED)], "fail", "fails after the upgrade: refused"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "verdict", "words"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_the_table(changes: list[Change], verdict: str, words: str) -> None:
    facts = passing_facts()
    for change in changes:
        facts = change(facts)
    decision = decide(facts)
    assert (decision.verdict.value, words in decision.reason) == (verdict, True), decision
    assert "\n" not in decision.reason
    if verdict not in ("pass",):
        assert decision.hint


def test_the_reason_names_the_package_that_the_check_speaks_of() -> None:
    changes = (*CHANGES[:2], *BAD_NGINX)
    facts = passing_facts().model_copy(
        update={
            "expectations": Expectations(),
            "after": observed(after=True, changes=changes),
            "checks_after": session({FIRST: "nginx: connection refused on port 80"}),
        }
    )
    assert decide(facts).reason == (
        "test_http, which held before, fails after nginx 1.22.1-9 -> 1.99 and 2 others: "
        "nginx: connection refused on port 80"
    )


def test_findings_carry_the_further_evidence() -> None:
    facts = outcomes("after", first=Outcome.FAILED, second=Outcome.FAILED)(passing_facts())
    facts = facts.model_copy(update={"upgrade": upgraded(held=("php",), not_configured=("nginx",))})
    findings = decide(facts).findings
    assert "test_page[/] held before and fails after: refused" in findings
    assert "on hold, so not upgraded: php" in findings


def test_new_destinations_are_told_and_are_no_failure() -> None:
    new = Destination(kind="tcp", address="2001:db8::7", port=443, after=3)
    known = new.model_copy(update={"address": "192.0.2.1", "before": 1})
    drift = new.model_copy(update={"address": "192.0.2.2", "control": 1})
    ledger = Ledger(destinations=(new, known, drift))
    decision = decide(passing_facts().model_copy(update={"ledger": ledger}))
    assert decision.verdict is Verdict.PASS
    (told,) = [finding for finding in decision.findings if "reach" in finding]
    assert told == (
        "after the upgrade the guest tried to reach what it did not before: "
        "tcp [2001:db8::7]:443 (3 times)"
    )
    calm = passing_facts().model_copy(update={"ledger": Ledger(destinations=(known, drift))})
    assert not any("reach" in finding for finding in decide(calm).findings)


def test_trouble_keeps_the_failures_as_findings() -> None:
    facts = trouble(Verdict.ERROR)(outcomes("after", first=Outcome.FAILED)(passing_facts()))
    decision = decide(facts)
    assert decision.hint == "mend it"
    assert any("test_http" in finding for finding in decision.findings)


def test_a_thousand_failing_checks_stay_readable() -> None:
    names = tuple(f"t.py::test_{n}" for n in range(1000))
    facts = passing_facts().model_copy(
        update={
            "checks_before": session(names=names),
            "checks_after": session(dict.fromkeys(names, "no\n" * 999), names=names),
        }
    )
    decision = decide(facts)
    assert len(decision.findings) < 50
    assert max(map(len, (decision.reason, *decision.findings))) <= 240
