"""The package manager has finished what it began."""

from __future__ import annotations

from sandbox.core.records import Observation


def test_nothing_is_half_configured(now: Observation) -> None:
    broken = [f"{name} is {now.packages[name].status}" for name in now.not_configured]
    assert not broken, (
        broken[0]
        if len(broken) == 1
        else f"{len(broken)} packages are not configured: {', '.join(broken)}"
    )
