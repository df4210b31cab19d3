"""What a preflight ends in: points, each one sentence, and forecasts."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from sandbox.core.records import PackageChange, Record


class PreflightSeverity(StrEnum):
    # The worst first.
    BLOCKER = "blocker"  # the upgrade, or the boot after it, would fail
    WARNING = "warning"  # it may go wrong, or wants a person
    NOTE = "note"


class PreflightPoint(Record):
    """One thing that was looked at and is worth a sentence."""

    severity: PreflightSeverity
    topic: str  # "space", "services": for lists
    text: str
    hint: str = ""


def worst_first(points: Iterable[PreflightPoint]) -> tuple[PreflightPoint, ...]:
    """In their order otherwise."""
    return tuple(sorted(points, key=lambda point: [*PreflightSeverity].index(point.severity)))


class ServiceForecast(Record):
    """A service that the upgrade restarts; ``seconds`` as its last start, None when unknown."""

    service: str
    package: str
    seconds: float | None = None
    stops: bool = False  # before its package is unpacked, and starts when that is configured


class Preflight(Record):
    """What can be known of an upgrade before it is rehearsed."""

    guest: str
    upgrade: str  # in words: "security updates"
    points: tuple[PreflightPoint, ...] = ()  # the worst first
    changes: tuple[PackageChange, ...] = ()
    services: tuple[ServiceForecast, ...] = ()
    reboot: bool = False  # whether one will be due
    reboot_seconds: float = 0.0  # as long as the last start; 0 when unknown
    seconds: float = 0.0  # that the look took

    def and_also(self, points: Iterable[PreflightPoint]) -> Preflight:
        """The same with more points, the worst first."""
        return self.model_copy(update={"points": worst_first((*self.points, *points))})

    @property
    def blocked(self) -> bool:
        return any(point.severity is PreflightSeverity.BLOCKER for point in self.points)
