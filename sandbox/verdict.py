"""The verdict: from the facts of a rehearsal to one of the five answers. Pure and total.

Read :func:`decide` from top to bottom: it is the verdict table of the design, in order. What is
not proved is never a ``pass``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sandbox.differences import CheckChange, Effect, compare, compare_checks, split_package
from sandbox.records import (
    CheckEnd,
    Decision,
    Facts,
    Observation,
    Outcome,
    PackageChange,
    Phase,
    Trouble,
    UpgradeLog,
    UpgradeStatus,
    Verdict,
)
from sandbox.wording import because, count, line, say, short, since, some

_FINDINGS_LIMIT = 40
_ENDED = {
    CheckEnd.TIMEOUT: "a check hung",
    CheckEnd.DIED: "the checks' process ended early",
    CheckEnd.BROKEN: "the checks could not be collected",
    CheckEnd.CONNECTION_LOST: "the connection to the clone broke during the checks",
}


@dataclass(frozen=True)
class _Point:
    """One thing that stands against the upgrade, or against knowing."""

    text: str
    hint: str = ""


def decide(facts: Facts) -> Decision:
    """Judge a rehearsal. Never raises; a fact that is missing without a reason is ``error``."""
    failures = [*_failures(facts)]
    trouble = facts.trouble
    # A clean-up that went wrong comes after the evidence and does not unprove a failure.
    if trouble and not (trouble.phase is Phase.CLEANUP and failures):
        blame = Verdict.ERROR if trouble.blame is Verdict.PASS else trouble.blame
        return _answer(blame, [_trouble_point(trouble), *failures], facts)

    upgrade = facts.upgrade
    if upgrade and upgrade.status is UpgradeStatus.IMPOSSIBLE:
        return _answer(Verdict.REJECTED, [_impossible(upgrade)], facts)
    if upgrade and upgrade.status is UpgradeStatus.UNAVAILABLE:
        return _answer(Verdict.ERROR, [_unavailable(upgrade)], facts)
    if failures:
        return _answer(Verdict.FAIL, [*failures, *_doubts_before(facts)], facts)
    if lost := [*_lost_connections(facts)]:
        return _answer(Verdict.ERROR, lost, facts)

    early = [*_doubts_before(facts)]
    if missing := [*_missing(facts, ended_early=bool(early))]:
        return _answer(Verdict.ERROR, missing, facts)
    if doubts := [*early, *_doubts_after(facts)]:
        return _answer(Verdict.INCONCLUSIVE, doubts, facts)
    return _answer(Verdict.PASS, [_held(facts)], facts)


def _answer(verdict: Verdict, points: Sequence[_Point], facts: Facts) -> Decision:
    """The first point is the reason; the rest, and what is worth knowing, are findings."""
    first, *others = points
    findings = [*(point.text for point in others), *_notes(facts)]
    more = len(findings) - _FINDINGS_LIMIT
    if more > 0:
        findings[_FINDINGS_LIMIT:] = [f"and {more} more"]
    return Decision(
        verdict=verdict,
        reason=line(first.text),
        findings=tuple(line(text) for text in findings),
        hint=line(first.hint),
    )


# --- proofs that the upgrade does harm: any of them is a fail -----------------------------------


def _failures(facts: Facts) -> Iterator[_Point]:
    upgrade = facts.upgrade
    if upgrade and upgrade.status is UpgradeStatus.FAILED:
        yield _failed_upgrade(upgrade)
    yield from _left_half_way(facts)
    if facts.reboot and not facts.reboot.happened:
        yield _Point(
            "the guest did not come back after the upgrade: "
            + (facts.reboot.message or "no new boot was seen"),
            "do not reboot the source after this upgrade; the last console lines and the screen "
            "show where the boot stopped",
        )
    if upgrade and upgrade.status in (UpgradeStatus.APPLIED, UpgradeStatus.NOTHING):
        yield from _broken_kernel(facts)
        yield from _broken_package_expectations(facts)
    if not [*_lost_connections(facts)]:  # a broken connection makes every check fail
        yield from _regressions(facts)
        yield from _hang(facts)


def _failed_upgrade(upgrade: UpgradeLog) -> _Point:
    what = f"the upgrade failed at {upgrade.failed_package}" if upgrade.failed_package else ""
    why = upgrade.error or f"{upgrade.manager} exited with {upgrade.exit_status}"
    hint = "the transcript of the upgrade has the whole story; the source would be left half-way"
    if "no space left" in upgrade.error.lower():
        hint = "make room in the guest (see its filesystems in the report), then rehearse again"
    return _Point(f"{what or 'the upgrade failed'}: {why}", hint)


def _left_half_way(facts: Facts) -> Iterator[_Point]:
    names = _newly_half_configured(facts)
    if names:
        yield _Point(
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


def _broken_kernel(facts: Facts) -> Iterator[_Point]:
    wanted = facts.expectations.kernel
    seen = _last_observation(facts)
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
        yield _Point(
            f"the guest runs kernel {seen.kernel}, expected {what}{release}{after}",
            "look at the boot loader's default entry, and whether the host supplies the kernel",
        )


def _broken_package_expectations(facts: Facts) -> Iterator[_Point]:
    changes = _package_changes(facts)
    hint = "correct `expect` in the scenario, or what is asked of the upgrade"
    for pattern in facts.expectations.must_change:
        if not any(c.new is not None and _matches(pattern, c) for c in changes):
            yield _Point(f"{pattern} had to change and did not", hint)
    for pattern in facts.expectations.must_not_change:
        hit = [c for c in changes if _matches(pattern, c)]
        if hit:
            yield _Point(f"{some([say(c) for c in hit])}, and {pattern} must not change", hint)


def _regressions(facts: Facts) -> Iterator[_Point]:
    broke = _checks(facts, Effect.BROKE)
    if not broke:
        return
    results = [change.after for change in broke if change.after is not None]
    first, when = results[0], since(_package_changes(facts), results[0])
    what = f"{short(first.name)}, which held before, fails {when}"
    if len(results) > 1:
        what = f"{len(results)} checks that held before fail {when}; first {short(first.name)}"
    yield _Point(
        what + because(first),
        "rehearse again with --keep and enter the clone to look",
    )
    for result in results[1:]:
        yield _Point(f"{short(result.name)} held before and fails after{because(result)}")


def _hang(facts: Facts) -> Iterator[_Point]:
    before, after = facts.checks_before, facts.checks_after
    if not before or not after or before.end is not CheckEnd.COMPLETE:
        return
    if after.end is CheckEnd.TIMEOUT:
        yield _Point(
            "a check that ended before hangs after the upgrade"
            + (f": {after.message}" if after.message else ""),
            "rehearse again with --keep and enter the clone to look",
        )


# --- the request or the sandbox, not the upgrade ------------------------------------------------


def _trouble_point(trouble: Trouble) -> _Point:
    message = trouble.message or "the rehearsal ended early"
    where = f" (in phase {trouble.phase.value})" if trouble.blame is Verdict.ERROR else ""
    return _Point(message + where, trouble.hint)


def _impossible(upgrade: UpgradeLog) -> _Point:
    return _Point(
        upgrade.error or f"{upgrade.requested} does not exist in the guest's package sources",
        "correct the package's name or version in the scenario",
    )


def _unavailable(upgrade: UpgradeLog) -> _Point:
    return _Point(
        f"the package sources did not answer: {upgrade.error or 'no more is known'}",
        "nothing is known of the upgrade: try again when the mirror answers",
    )


def _lost_connections(facts: Facts) -> Iterator[_Point]:
    for session, when in ((facts.checks_before, "before"), (facts.checks_after, "after")):
        if session and session.end is CheckEnd.CONNECTION_LOST:
            detail = f": {session.message}" if session.message else ""
            yield _Point(
                f"{_ENDED[session.end]} {when} the upgrade{detail}",
                "nothing is known of the upgrade: rehearse again",
            )


def _missing(facts: Facts, ended_early: bool) -> Iterator[_Point]:
    hint = "this is a fault of the sandbox: rehearse again, and report it if it stays"
    look_again = not ended_early and not _stopped_with_nothing(facts)
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
        yield _Point(f"the rehearsal did not record {some(absent)}", hint)
    if facts.reboot and _is_same_boot(facts):
        yield _Point("a reboot was recorded, but the boot id did not change", hint)


def _is_same_boot(facts: Facts) -> bool:
    pairs = []
    if facts.reboot:
        pairs.append((facts.reboot.boot_id_before, facts.reboot.boot_id_after))
    if facts.before and facts.after:
        pairs.append((facts.before.boot_id, facts.after.boot_id))
    return any(old and old == new for old, new in pairs)


# --- nobody may conclude that the upgrade is safe -----------------------------------------------


def _doubts_before(facts: Facts) -> Iterator[_Point]:
    session = facts.checks_before
    if session is None:
        return
    if session.end is not CheckEnd.COMPLETE:
        detail = f": {session.message}" if session.message else ""
        yield _Point(
            f"{_ENDED[session.end]} before the upgrade{detail}",
            "repair the check, then rehearse again",
        )
    broken = _checks(facts, Effect.WAS_BROKEN)
    for change in broken:
        if change.before:
            yield _Point(
                f"{short(change.name)} failed already before the upgrade"
                f"{because(change.before)}{_since_then(change)}",
                "repair the guest or the check, then rehearse again",
            )
    if not broken and not any(change.held_before for change in _compared(facts)):
        what = "every check was skipped" if session.results else "no check ran"
        yield _Point(
            f"{what} before the upgrade: there is nothing to compare with",
            "put test_*.py beside the scenario, or name shared checks under `checks`",
        )


def _doubts_after(facts: Facts) -> Iterator[_Point]:
    session, upgrade = facts.checks_after, facts.upgrade
    if upgrade and upgrade.status is UpgradeStatus.NOTHING and not facts.expectations.allow_nothing:
        yield _Point(
            "there was nothing to upgrade, and the scenario asks for a change",
            "check the guest's package sources, or set expect.nothing_to_upgrade in the scenario",
        )
    seen = _last_observation(facts)
    if facts.expectations.kernel == "newest" and seen and not seen.kernels:
        yield _Point(
            "no installed kernel was found in the guest, so the newest is not known",
            "name the expected release, or drop the demand on the kernel",
        )
    if session is None:
        return
    if session.end is not CheckEnd.COMPLETE:
        detail = f": {session.message}" if session.message else ""
        yield _Point(
            f"{_ENDED[session.end]} after the upgrade{detail}",
            "rehearse again with --keep and run the checks by hand",
        )
    if lost := [short(change.name) for change in _checks(facts, Effect.LOST)]:
        yield _Point(
            f"{some(lost)} held before and gave no answer after the upgrade",
            "a check has to run on both sides to prove anything",
        )
    for change in _checks(facts, Effect.UNPROVEN):
        yield _Point(
            f"{short(change.name)} fails after the upgrade, and was not judged before"
            + (because(change.after) if change.after else ""),
            "find out whether it held before: rehearse again with a check that runs on both sides",
        )


def _held(facts: Facts) -> _Point:
    changes = _package_changes(facts)
    before = sum(change.held_before for change in _compared(facts))
    seen = _last_observation(facts)
    kernel = f", kernel {seen.kernel} runs" if seen and seen.kernel else ""
    if facts.upgrade and facts.upgrade.status is UpgradeStatus.NOTHING:
        return _Point(f"nothing to upgrade, {before} of {before} checks hold{kernel}")
    what = f"{count(len(changes), 'package')} applied" if changes else "the upgrade was applied"
    held = len(_checks(facts, Effect.HOLDS))
    return _Point(f"{what}, {held} of {before} checks hold after{kernel}")


def _notes(facts: Facts) -> Iterator[str]:
    """What a person should know whatever the verdict."""
    upgrade, before, after = facts.upgrade, facts.before, _last_observation(facts)
    if upgrade:
        if upgrade.conffiles:
            names = some([c.path for c in upgrade.conffiles])
            yield f"an interactive upgrade would ask about {names}"
        if upgrade.held:
            yield f"on hold, so not upgraded: {some(upgrade.held)}"
        if upgrade.kept_back:
            yield f"upgradable, but not in this set: {some(upgrade.kept_back)}"
    if before and before.not_configured:
        names = some(before.not_configured)
        yield f"half-configured before the upgrade already: {names}"
    if after and after.reboot_required:
        yield "the guest still asks for a reboot"
    if before and after and not facts.reboot and before.boot_id != after.boot_id:
        yield "the guest rebooted although no reboot was asked for"
    if facts.trouble and facts.trouble.phase is Phase.CLEANUP:
        yield f"clean-up: {facts.trouble.message}"


# --- helpers ------------------------------------------------------------------------------------


def _stopped_with_nothing(facts: Facts) -> bool:
    """Nothing was upgraded and the recipe saw no need to look again: before is also after."""
    nothing = facts.upgrade is not None and facts.upgrade.status is UpgradeStatus.NOTHING
    return nothing and not facts.reboot and not facts.after and not facts.checks_after


def _last_observation(facts: Facts) -> Observation | None:
    return facts.after or (facts.before if _stopped_with_nothing(facts) else None)


def _compared(facts: Facts) -> tuple[CheckChange, ...]:
    return compare_checks(facts.checks_before, facts.checks_after)


def _checks(facts: Facts, effect: Effect) -> list[CheckChange]:
    return [change for change in _compared(facts) if change.effect is effect]


def _package_changes(facts: Facts) -> tuple[PackageChange, ...]:
    """What really changed; what the simulation announced when nobody could look afterwards."""
    if facts.before and facts.after:
        return compare(facts.before, facts.after).packages
    return facts.upgrade.changes if facts.upgrade else ()


def _matches(pattern: str, change: PackageChange) -> bool:
    name = change.name
    return fnmatchcase(name, pattern) or fnmatchcase(f"{name}:{change.architecture}", pattern)


def _since_then(change: CheckChange) -> str:
    passed = change.after is not None and change.after.outcome is Outcome.PASSED
    return "; it holds after" if passed else ""
