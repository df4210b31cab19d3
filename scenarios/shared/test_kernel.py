"""The newest installed kernel is the one that runs."""

from __future__ import annotations

from sandbox.checks.compare import newer_kernel
from sandbox.core.records import Observation


def test_newest_installed_kernel_runs(now: Observation, phase: str) -> None:
    newer = newer_kernel(now)
    if newer and phase == "before":
        # Production waits for a reboot: worth knowing, and the rehearsal is about to do it.
        print(f"pending reboot: {newer} is installed, {now.kernel} runs")
        return
    assert not newer, f"{newer} is the newest installed kernel, but {now.kernel} runs"
