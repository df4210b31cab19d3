"""The verdict: from the facts of a rehearsal to one of the five answers. Pure and total.

Read :func:`decide` from top to bottom: it is the verdict table of the design, in order. What is
not proved is never a ``pass``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from sandbox.core.records import (
    Autopsy,
    CheckEnd,
    Decision,
    Facts,
    PackageChange,
    Phase,
    Trouble,
    UpgradeLog,
    UpgradeStatus,
    Verdict,
)
from sandbox.core.wording import because, count, line, reached, say, short, since, some
from sandbox.verdict.assessment import (
    ENDED,
    Assessment,
    Objection,
    assess,
    failed_before,
    stopped_with_nothing,
)
from sandbox.verdict.causes import told_by_its_unit
from sandbox.verdict.diff import Effect
from sandbox.verdict.diff_kinds import split_package
from sandbox.verdict.flakiness import (
    control_came_back,
    gone_alike,
    hangs_alike,
    how_flaky,
    restarted,
    restarts_alike,
    stuck_alike,
)
from sandbox.verdict.inconclusive import (
    RESTARTS_ANYWAY,
    doubts_before,
    excused,
    goes_anyway,
    on_the_whole,
)

_FINDINGS_LIMIT = 40


def decide(facts: Facts) -> Decision:
    """Judge a rehearsal. Never raises; a fact that is missing without a reason is ``error``."""
    found = assess(facts)
    failures = [*_failures(found)]
    trouble = facts.trouble
    # A clean-up that went wrong comes after the evidence and does not unprove a failure.
    if trouble and not (trouble.phase is Phase.CLEANUP and failures):
        if trouble.blame is Verdict.FAIL and trouble.restarted and restarts_alike(facts):
            return _answer(Verdict.INCONCLUSIVE, [RESTARTS_ANYWAY], found)
        if trouble.blame is Verdict.FAIL and gone_alike(facts):
            return _answer(Verdict.INCONCLUSIVE, [goes_anyway(trouble.message)], found)
        blame = Verdict.ERROR if trouble.blame is Verdict.PASS else trouble.blame
        return _answer(blame, [_trouble_point(trouble, facts), *failures], found)

    upgrade = facts.upgrade
    if upgrade and upgrade.status is UpgradeStatus.IMPOSSIBLE:
        return _answer(Verdict.REJECTED, [_impossible(upgrade)], found)
    if upgrade and upgrade.status is UpgradeStatus.UNAVAILABLE:
        return _answer(Verdict.ERROR, [_unavailable(upgrade)], found)
    if upgrade and upgrade.status is UpgradeStatus.UNFIT:
        return _answer(Verdict.INCONCLUSIVE, [_unfit(upgrade)], found)
    if failures:
        return _answer(Verdict.FAIL, [*failures, *doubts_before(found), *excused(found)], found)
    if lost := [*_lost_connections(facts)]:
        return _answer(Verdict.ERROR, lost, found)

    early = [*doubts_before(found)]
    if missing := [*_missing(facts, ended_early=bool(early))]:
        return _answer(Verdict.ERROR, missing, found)
    if doubts := [*early, *on_the_whole(found)]:
        return _answer(Verdict.INCONCLUSIVE, doubts, found)
    return _answer(Verdict.PASS, [_held(found)], found)


def _answer(verdict: Verdict, points: Sequence[Objection], found: Assessment) -> Decision:
    """The first point is the reason; the rest, and what is worth knowing, are findings."""
    first, *others = points
    findings = [*(point.text for point in others), *_notes(found)]
    more = len(findings) - _FINDINGS_LIMIT
    if more > 0:
        findings[_FINDINGS_LIMIT:] = [f"and {more} more"]
    return Decision(
        verdict=verdict,
        reason=line(first.text) or "no reason was given",  # that can be printed
        findings=tuple(line(text) for text in findings),
        hint=line(first.hint),
        causes=() if verdict is Verdict.PASS else found.causes,
    )


# --- proofs that the upgrade does harm: any of them is a fail -----------------------------------


def _failures(found: Assessment) -> Iterator[Objection]:
    facts, upgrade = found.facts, found.facts.upgrade
    if upgrade and upgrade.status is UpgradeStatus.FAILED and not failed_before(facts):
        yield _failed_upgrade(upgrade, facts.autopsy)
    yield from _left_half_way(facts)
    if facts.reboot and not facts.reboot.happened and not stuck_alike(facts):
        yield Objection(
            f"the guest did not come back {_after(found)}: "
            + (facts.reboot.message or "no new boot was seen")
            + ("; the control, which was not upgraded, did" if control_came_back(facts) else ""),
            "do not reboot the source after this upgrade; the last console lines and the screen "
            "show where the boot stopped",
        )
        yield from _told_causes(found)
    if upgrade and upgrade.status in (UpgradeStatus.APPLIED, UpgradeStatus.NOTHING):
        yield from _restart(found)
        yield from _broken_kernel(found)
        yield from _broken_package_expectations(found)
    if not [*_lost_connections(facts)]:  # a broken connection makes every check fail
        yield from _regressions(found)
        yield from _hang(facts)


def _restart(found: Assessment) -> Iterator[Objection]:
    facts = found.facts
    told = facts.trouble is not None and facts.trouble.restarted
    if restarted(facts) and not told and not restarts_alike(facts):
        watched = "while it was watched " if facts.watched and facts.watched.restarted else ""
        yield Objection(
            f"the guest restarted by itself {watched}{_after(found)}{_not_the_control(facts)}",
            "see its console for the reason",
        )


def _not_the_control(facts: Facts, does: str = "did not") -> str:
    there = facts.control
    return f"; the control, which was not upgraded, {does}" if there and not there.missing else ""


def _after(found: Assessment) -> str:
    """Names the package only where it is the only one that changed."""
    return f"after {say(found.packages[0])}" if len(found.packages) == 1 else "after the upgrade"


def _failed_upgrade(upgrade: UpgradeLog, autopsy: Autopsy | None) -> Objection:
    what = f"the upgrade failed at {upgrade.failed_package}" if upgrade.failed_package else ""
    why = told_by_its_unit(upgrade.error, autopsy)
    why = why or f"{upgrade.manager} exited with {upgrade.exit_status}"
    hint = "the transcript of the upgrade has the whole story; the source would be left half-way"
    if "no space left" in upgrade.error.lower():
        hint = "make room in the guest (see its filesystems in the report), then rehearse again"
    return Objection(f"{what or 'the upgrade failed'}: {why}", hint)


def _left_half_way(facts: Facts) -> Iterator[Objection]:
    names = _newly_half_configured(facts)
    if names:
        yield Objection(
            f"the package manager left {some(names)} half-configured",
            "the transcript of the upgrade names the maintainer script that failed",
        )


def _newly_half_configured(facts: Facts) -> list[str]:
    known = set(facts.before.not_configured) if facts.before else set()
    known_names = {split_package(key)[0] for key in known}
    left = [key for key in facts.after.not_configured if key not in known] if facts.after else []
    names = {split_package(key)[0] for key in left}
    if facts.upgrade:
        said = {split_package(key)[0] for key in facts.upgrade.not_configured}
        names |= said - known_names
    return sorted(names)


def _broken_kernel(found: Assessment) -> Iterator[Objection]:
    facts, seen = found.facts, found.last
    wanted = facts.expectations.kernel
    if wanted is None or seen is None or (wanted == "newest" and not seen.kernels):
        return
    what = {"newest": "the newest installed ", "unchanged": "it unchanged at "}.get(wanted, "")
    release = wanted
    if wanted == "newest":
        release = seen.kernels[-1]
    elif wanted == "unchanged":
        if facts.before is None:
            return
        release = facts.before.kernel
    if seen.kernel != release:
        after = "" if facts.reboot else " (no reboot was made)"
        yield Objection(
            f"the guest runs kernel {seen.kernel}, expected {what}{release}{after}",
            "look at the boot loader's default entry, and whether the host supplies the kernel",
        )


def _broken_package_expectations(found: Assessment) -> Iterator[Objection]:
    changes, expected = found.packages, found.facts.expectations
    hint = "correct `expect` in the scenario, or what is asked of the upgrade"
    for pattern in expected.must_change:
        if not any(c.new is not None and _matches(pattern, c) for c in changes):
            yield Objection(f"{pattern} had to change and did not", hint)
    for pattern in expected.must_not_change:
        hit = [c for c in changes if _matches(pattern, c)]
        if hit:
            yield Objection(f"{some([say(c) for c in hit])}, and {pattern} must not change", hint)


def _regressions(found: Assessment) -> Iterator[Objection]:
    broke = [one for one in found.with_effect(Effect.BROKE) if not found.excuses[one.name]]
    if not broke:
        return
    results = [change.after for change in broke if change.after is not None]
    first, when = results[0], since(found.packages, results[0])
    what = f"{short(first.name)}, which held before, fails {when}"
    if len(results) > 1:
        what = f"{len(results)} checks that held before fail {when}; first {short(first.name)}"
    likely, what, told = found.causes, what + because(first), 1
    if likely:
        others = "1 check" if len(results) == 1 else f"{len(results)} checks"
        fail = "fails" if len(results) == 1 else "fail"
        what, told = f"{likely[0].text} ({others} that held before {fail})", 0
    yield Objection(what, "rehearse again with --keep and enter the clone to look")
    yield from _told_causes(found)
    for result in results[told:]:
        yield Objection(f"{short(result.name)} held before and fails after{because(result)}")


def _told_causes(found: Assessment) -> Iterator[Objection]:
    """What ties the likely causes to what broke; the first one's text is told elsewhere."""
    for number, cause in enumerate(found.causes):
        tie = f"{cause.package or cause.unit}: {'; '.join(cause.evidence)}"
        if number == 0 and cause.evidence:
            yield Objection(f"the likely cause is {tie}")
        elif number:
            yield Objection(f"less likely: {cause.text}" + (f" ({tie})" if cause.evidence else ""))


def _hang(facts: Facts) -> Iterator[Objection]:
    before, after = facts.checks_before, facts.checks_after
    if not before or not after or before.end is not CheckEnd.COMPLETE:
        return
    if after.end is CheckEnd.TIMEOUT and not hangs_alike(facts):
        yield Objection(
            "a check that ended before hangs after the upgrade"
            + (f": {after.message}" if after.message else ""),
            "rehearse again with --keep and enter the clone to look",
        )


# --- the request or the sandbox, not the upgrade ------------------------------------------------


def _trouble_point(trouble: Trouble, facts: Facts) -> Objection:
    message = trouble.message or "the rehearsal ended early"
    if trouble.restarted and trouble.blame is Verdict.FAIL:
        message += _not_the_control(facts)
    if trouble.gone and facts.control and facts.control.checks_after:
        message += _not_the_control(facts, "still lets us in")
    where = f" (in phase {trouble.phase.value})" if trouble.blame is Verdict.ERROR else ""
    return Objection(message + where, trouble.hint)


def _impossible(upgrade: UpgradeLog) -> Objection:
    return Objection(
        upgrade.error or f"{upgrade.requested} does not exist in the guest's package sources",
        "correct the package's name or version in the scenario",
    )


def _unavailable(upgrade: UpgradeLog) -> Objection:
    return Objection(
        f"the package sources did not answer: {upgrade.error or 'no more is known'}",
        "nothing is known of the upgrade: try again when the mirror answers",
    )


def _unfit(upgrade: UpgradeLog) -> Objection:
    return Objection(
        f"the guest's package manager was broken before the upgrade: {upgrade.error}",
        "repair it in the guest, or wait until its own upgrade has ended, then rehearse again",
    )


def _lost_connections(facts: Facts) -> Iterator[Objection]:
    for session, when in ((facts.checks_before, "before"), (facts.checks_after, "after")):
        if session and session.end is CheckEnd.CONNECTION_LOST:
            detail = f": {session.message}" if session.message else ""
            yield Objection(
                f"{ENDED[session.end]} {when} the upgrade{detail}",
                "nothing is known of the upgrade: rehearse again",
            )


def _missing(facts: Facts, ended_early: bool) -> Iterator[Objection]:
    hint = "this is a fault of the sandbox: rehearse again, and report it if it stays"
    look_again = not ended_early and not stopped_with_nothing(facts) and not stuck_alike(facts)
    absent = [
        name
        for name, known in (
            ("that the clone was reached", facts.booted),
            ("the observation before", facts.before is not None),
            ("the checks before", facts.checks_before is not None),
            ("the upgrade's log", ended_early or facts.upgrade is not None),
            ("the observation after", not look_again or facts.after is not None),
            ("the checks after", not look_again or facts.checks_after is not None),
        )
        if not known
    ]
    if absent:
        yield Objection(f"the rehearsal did not record {some(absent)}", hint)
    if facts.reboot and _is_same_boot(facts):
        yield Objection("a reboot was recorded, but the boot id did not change", hint)


def _is_same_boot(facts: Facts) -> bool:
    pairs = []
    if facts.reboot:
        pairs.append((facts.reboot.boot_id_before, facts.reboot.boot_id_after))
    if facts.before and facts.after:
        pairs.append((facts.before.boot_id, facts.after.boot_id))
    return any(old and old == new for old, new in pairs)


def _held(found: Assessment) -> Objection:
    changes, before, seen = found.packages, found.held_before, found.last
    upgrade = found.facts.upgrade
    kernel = f", kernel {seen.kernel} runs" if seen and seen.kernel else ""
    if upgrade and upgrade.status is UpgradeStatus.NOTHING:
        return Objection(f"nothing to upgrade, {before} of {before} checks hold{kernel}")
    what = f"{count(len(changes), 'package')} applied" if changes else "the upgrade was applied"
    held = len(found.with_effect(Effect.HOLDS))
    return Objection(f"{what}, {held} of {before} checks hold after{kernel}")


def _notes(found: Assessment) -> Iterator[str]:
    """What a person should know whatever the verdict."""
    facts, after = found.facts, found.last
    upgrade, before = facts.upgrade, facts.before
    if upgrade:
        if upgrade.conffiles:
            names = some([c.path for c in upgrade.conffiles])
            yield f"an interactive upgrade would ask about {names}"
        if upgrade.held:
            yield f"on hold, so not upgraded: {some(upgrade.held)}"
        if upgrade.kept_back:
            yield f"upgradable, but not in this set: {some(upgrade.kept_back)}"
    if facts.control and facts.control.missing:
        yield f"not compared with a control: {facts.control.missing}"
    if again := facts.second_start:
        yield (
            f"the start after the upgrade took {again.first:.0f} s, so the guest was started once "
            f"more: {again.second:.0f} s"
        )
    if facts.ledger and facts.ledger.new:
        tried = [f"{reached(one)} ({count(one.after, 'time')})" for one in facts.ledger.new]
        yield f"after the upgrade the guest tried to reach what it did not before: {some(tried)}"
    for name in found.flaky:
        yield f"{short(name)} is flaky: {how_flaky(facts, name)}"
    if before and before.not_configured:
        names = some(before.not_configured)
        yield f"half-configured before the upgrade already: {names}"
    if after and after.reboot_required:
        yield "the guest still asks for a reboot"
    if facts.trouble and facts.trouble.phase is Phase.CLEANUP:
        yield f"clean-up: {facts.trouble.message}"


def _matches(pattern: str, change: PackageChange) -> bool:
    name = change.name
    return fnmatchcase(name, pattern) or fnmatchcase(f"{name}:{change.architecture}", pattern)
