"""How long things were to be down, and were: services that packages restart, and the reboot. Pure.

A service's forecast is how long its last start before the upgrade took, the reboot's how long it
was from the clone's own start until it let us in: neither knows of the upgrade.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sandbox.core.records import RunRecord, Start

REBOOT = "reboot"
SHORT = 0.1  # seconds; a share of less says nothing


@dataclass(frozen=True)
class Forecast:
    """One thing that goes down; None for what is not known or did not happen."""

    what: str
    package: str  # whose script restarts it; "" for the reboot
    forecast: float | None
    happened: float | None
    at_least: bool = False  # down while its package is unpacked, too: for how long is unknown

    @property
    def error(self) -> str:
        """How far off: "12 % longer", "0.02 s shorter"; "" where there is nothing to compare."""
        if self.forecast is None or self.happened is None or self.at_least:
            return ""
        off = self.happened - self.forecast
        word = "longer" if off > 0 else "shorter"
        if self.forecast < SHORT:
            return f"{abs(off):.2f} s {word}"
        return f"{abs(100 * off / self.forecast):.0f} % {word}"


def start_seconds(start: Start | None) -> float | None:
    """How long a start took; None when systemd does not know."""
    return start.seconds if start else None


def forecasts(record: RunRecord) -> Iterator[Forecast]:
    """The services whose packages' scripts restart them, then the reboot."""
    facts = record.facts
    upgrade, before = facts.upgrade, facts.before
    if upgrade is not None and before is not None:
        for service, package in sorted(upgrade.restarts.items()):
            old, new = before.starts.get(service), upgrade.starts.get(service)
            if old is not None:
                stops = service in upgrade.stops
                yield Forecast(service, package, start_seconds(old), _down(old, new), stops)
    if facts.reboot is not None:
        happened = facts.reboot.away if facts.reboot.happened else None
        yield Forecast(REBOOT, "", facts.first_login or None, happened)


def _down(old: Start, new: Start | None) -> float | None:
    """From when its last stop began until it was ready; None when it was not started anew."""
    if new is None or new.ready <= old.ready or not old.ready <= new.stopped <= new.ready:
        return None
    return new.ready - new.stopped
