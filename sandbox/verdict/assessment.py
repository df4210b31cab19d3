"""The facts in the terms that a verdict is given in. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.core.records import CheckEnd, Facts, Observation, PackageChange, UpgradeStatus
from sandbox.verdict.diff import CheckChange, Effect, compare, compare_checks
from sandbox.verdict.diff_kinds import split_package

ENDED = {
    CheckEnd.TIMEOUT: "a check hung",
    CheckEnd.DIED: "the checks' process ended early",
    CheckEnd.BROKEN: "the checks could not be collected",
    CheckEnd.CONNECTION_LOST: "the connection to the clone broke during the checks",
}


@dataclass(frozen=True)
class Objection:
    """One thing that stands against the upgrade, or against knowing."""

    text: str
    hint: str = ""


def stopped_with_nothing(facts: Facts) -> bool:
    """Nothing was upgraded and the recipe saw no need to look again: before is also after."""
    nothing = facts.upgrade is not None and facts.upgrade.status is UpgradeStatus.NOTHING
    return nothing and not facts.reboot and not facts.after and not facts.checks_after


def last_observation(facts: Facts) -> Observation | None:
    return facts.after or (facts.before if stopped_with_nothing(facts) else None)


def failed_before(facts: Facts) -> str:
    """The package that the upgrade failed at, where that one was half-configured before already
    and is none that was to change; else ""."""
    upgrade, before = facts.upgrade, facts.before
    if upgrade is None or before is None or upgrade.status is not UpgradeStatus.FAILED:
        return ""
    name = upgrade.failed_package
    known = {split_package(key)[0] for key in before.not_configured}
    changes = {change.name for change in upgrade.changes}
    return name if name in known - changes else ""


def compared(facts: Facts) -> tuple[CheckChange, ...]:
    return compare_checks(facts.checks_before, facts.checks_after)


def checks(facts: Facts, effect: Effect) -> list[CheckChange]:
    return [change for change in compared(facts) if change.effect is effect]


def package_changes(facts: Facts) -> tuple[PackageChange, ...]:
    """What really changed; what the simulation announced when nobody could look afterwards."""
    if facts.before and facts.after:
        return compare(facts.before, facts.after).packages
    return facts.upgrade.changes if facts.upgrade else ()
