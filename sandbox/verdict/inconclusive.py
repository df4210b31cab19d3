"""Why a rehearsal shows neither that an upgrade is safe nor that it is not. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.core.records import CheckEnd, Outcome, UpgradeStatus
from sandbox.core.wording import because, short, some
from sandbox.verdict.assessment import (
    ENDED,
    Assessment,
    Objection,
    failed_before,
)
from sandbox.verdict.diff import CheckChange, Effect
from sandbox.verdict.flakiness import (
    another_start_helps,
    how_flaky,
    restarts_alike,
    stuck_alike,
)

RESTARTS_ANYWAY = Objection(
    "the guest restarts by itself, upgraded or not",
    "the control, which was not upgraded, did so as well: repair that first",
)


def goes_anyway(message: str) -> Objection:
    """``message``: what became of the clone."""
    return Objection(
        f"{message}; the control, which was not upgraded, cannot be entered any more either",
        "find out what ends the guest, upgraded or not, and repair that first",
    )


def doubts_before(found: Assessment) -> Iterator[Objection]:
    session = found.facts.checks_before
    if session is None:
        return
    if session.end is not CheckEnd.COMPLETE:
        detail = f": {session.message}" if session.message else ""
        yield Objection(
            f"{ENDED[session.end]} before the upgrade{detail}",
            "repair the check, then rehearse again",
        )
    broken = found.with_effect(Effect.WAS_BROKEN)
    for change in broken:
        if change.before:
            yield Objection(
                f"{short(change.name)} failed already before the upgrade"
                f"{because(change.before)}{_since_then(change)}",
                "repair the guest or the check, then rehearse again",
            )
    if not broken and not found.held_before:
        what = "every check was skipped" if session.results else "no check ran"
        yield Objection(
            f"{what} before the upgrade: there is nothing to compare with",
            "put test_*.py beside the scenario, or name shared checks under `checks`",
        )


def excused(found: Assessment) -> Iterator[Objection]:
    """Checks that broke, and prove nothing."""
    for change in found.with_effect(Effect.BROKE):
        why = found.excuses[change.name]
        hint = "repair the guest or the check, then rehearse again"
        if another_start_helps(found.facts, change.name):
            hint = "rehearse again: a busy host, or what this upgrade does once, made a start slow"
        if why and change.after:
            yield Objection(
                f"{short(change.name)} failed after the upgrade{because(change.after)}; {why}",
                hint,
            )


def on_the_whole(found: Assessment) -> Iterator[Objection]:
    """What is left to doubt when nothing was found that does harm."""
    facts = found.facts
    if stuck_alike(facts) and facts.reboot:
        yield Objection(
            "the guest does not come back from a reboot, upgraded or not: "
            + (facts.reboot.message or "no new boot was seen"),
            "the control, which was not upgraded, did not come back either: repair that first",
        )
    if (broken := failed_before(facts)) and facts.upgrade:
        yield Objection(
            f"{broken} was half-configured before the upgrade, and still cannot be configured: "
            f"{facts.upgrade.error}",
            "repair the guest (`dpkg --configure -a` names the reason), then rehearse again",
        )
    if restarts_alike(facts):
        yield RESTARTS_ANYWAY
    yield from excused(found)
    yield from _doubts_after(found)
    held = found.with_effect(Effect.HOLDS)
    unsteady = set(found.flaky)
    if held and all(change.name in unsteady for change in held):
        yield Objection(
            f"every check that holds is flaky ({short(held[0].name)}: "
            f"{how_flaky(facts, held[0].name)})",
            "a check that fails where nothing was upgraded proves nothing: make one steady",
        )


def _doubts_after(found: Assessment) -> Iterator[Objection]:
    facts, seen = found.facts, found.last
    session, upgrade = facts.checks_after, facts.upgrade
    if upgrade and upgrade.status is UpgradeStatus.NOTHING and not facts.expectations.allow_nothing:
        yield Objection(
            "there was nothing to upgrade, and the scenario asks for a change",
            "check the guest's package sources, or set expect.nothing_to_upgrade in the scenario",
        )
    if facts.expectations.kernel == "newest" and seen and not seen.kernels:
        yield Objection(
            "no installed kernel was found in the guest, so the newest is not known",
            "name the expected release, or drop the demand on the kernel",
        )
    if session is None:
        return
    if session.end is not CheckEnd.COMPLETE:
        detail = f": {session.message}" if session.message else ""
        yield Objection(
            f"{ENDED[session.end]} after the upgrade{detail}",
            "rehearse again with --keep and run the checks by hand",
        )
    if lost := [short(change.name) for change in found.with_effect(Effect.LOST)]:
        yield Objection(
            f"{some(lost)} held before and gave no answer after the upgrade",
            "a check has to run on both sides to prove anything",
        )
    for change in found.with_effect(Effect.UNPROVEN):
        yield Objection(
            f"{short(change.name)} fails after the upgrade, and was not judged before"
            + (because(change.after) if change.after else ""),
            "find out whether it held before: rehearse again with a check that runs on both sides",
        )


def _since_then(change: CheckChange) -> str:
    passed = change.after is not None and change.after.outcome is Outcome.PASSED
    return "; it holds after" if passed else ""
