"""No unit has failed that had not failed before."""

from __future__ import annotations

from sandbox.checks import CheckSettings
from sandbox.checks.compare import new_failed_units
from sandbox.records import Observation


def test_no_new_failed_units(
    before: Observation, now: Observation, settings: CheckSettings
) -> None:
    failed = new_failed_units(before, now, settings.ignore_units)
    assert not failed, (
        f"{failed[0]} has failed, it had not before"
        if len(failed) == 1
        else f"{len(failed)} units have failed that had not before: {', '.join(failed)}"
    )
