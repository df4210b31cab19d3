"""What a rehearsal's facts amount to: the candidate compared with itself before its upgrade, and
with the control. Compared once, and handed to every judge and to the reports. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.core.records import (
    Cause,
    CheckEnd,
    Facts,
    Observation,
    PackageChange,
    UpgradeStatus,
)
from sandbox.verdict.causes import causes
from sandbox.verdict.diff import (
    CheckChange,
    Differences,
    Effect,
    compare,
    compare_checks,
    without_drift,
)
from sandbox.verdict.diff_kinds import split_package
from sandbox.verdict.flakiness import excuse, flaky

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


@dataclass(frozen=True)
class Assessment:
    """``differences``: what the upgrade changed, None where there are no two observations.
    ``packages``: what really changed, or else what the simulation announced. ``excuses``: of each
    check that broke, why that proves nothing; "" where it proves harm."""

    facts: Facts
    checks: tuple[CheckChange, ...]
    differences: Differences | None
    packages: tuple[PackageChange, ...]
    excuses: Mapping[str, str]
    flaky: tuple[str, ...]
    causes: tuple[Cause, ...]
    last: Observation | None  # after the upgrade, or before one that had nothing to do

    def with_effect(self, effect: Effect) -> list[CheckChange]:
        return [change for change in self.checks if change.effect is effect]

    @property
    def held_before(self) -> int:
        """How many checks held before the upgrade."""
        return sum(change.held_before for change in self.checks)


def assess(facts: Facts) -> Assessment:
    """Compare everything that the judges and the reports ask for. Never raises."""
    checks = compare_checks(facts.checks_before, facts.checks_after)
    differences = _differences(facts)
    announced = facts.upgrade.changes if facts.upgrade else ()
    packages = differences.packages if differences else announced
    return Assessment(
        facts,
        checks,
        differences,
        packages,
        excuses={c.name: excuse(facts, c.name) for c in checks if c.effect is Effect.BROKE},
        flaky=flaky(facts),
        causes=causes(facts, packages),
        last=facts.after or (facts.before if stopped_with_nothing(facts) else None),
    )


def _differences(facts: Facts) -> Differences | None:
    if not facts.before or not facts.after:
        return None
    found, control = compare(facts.before, facts.after), facts.control
    if control is None or not control.before or not control.after:
        return found
    drift = compare(control.before, control.after)
    return without_drift(found, drift, (control.before, control.after))


def stopped_with_nothing(facts: Facts) -> bool:
    """Nothing was upgraded and the recipe saw no need to look again: before is also after."""
    nothing = facts.upgrade is not None and facts.upgrade.status is UpgradeStatus.NOTHING
    return nothing and not facts.reboot and not facts.after and not facts.checks_after


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
