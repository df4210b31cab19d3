"""What a rehearsal tells while it runs; front doors show it, the pipeline does not care how."""

from __future__ import annotations

from typing import Protocol

from sandbox.core.records import CheckResult, Phase, PhaseTime


class Progress(Protocol):
    """Called from the thread that runs the rehearsal; must return at once."""

    def run_started(self, run_id: str, guest: str, scenario: str) -> None: ...

    def phase_started(self, phase: Phase, deadline: float) -> None: ...

    def detail(self, text: str, percent: float | None = None) -> None:
        """What is going on in the phase; ``percent`` of the phase, where it is known."""

    def check(self, result: CheckResult) -> None: ...

    def phase_ended(self, time: PhaseTime) -> None: ...


class Silent:
    """For callers that show no progress."""

    def run_started(self, run_id: str, guest: str, scenario: str) -> None:
        """Ignore it."""

    def phase_started(self, phase: Phase, deadline: float) -> None:
        """Ignore it."""

    def detail(self, text: str, percent: float | None = None) -> None:
        """Ignore it."""

    def check(self, result: CheckResult) -> None:
        """Ignore it."""

    def phase_ended(self, time: PhaseTime) -> None:
        """Ignore it."""
