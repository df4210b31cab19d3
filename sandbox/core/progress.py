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
    """For callers that do not look."""

    def run_started(self, run_id: str, guest: str, scenario: str) -> None:
        """Nobody looks."""

    def phase_started(self, phase: Phase, deadline: float) -> None:
        """Nobody looks."""

    def detail(self, text: str, percent: float | None = None) -> None:
        """Nobody looks."""

    def check(self, result: CheckResult) -> None:
        """Nobody looks."""

    def phase_ended(self, time: PhaseTime) -> None:
        """Nobody looks."""
