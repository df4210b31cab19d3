"""What does the work of an attempt; everything above is the same for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from workers.queue.values import Claim, Outcome


class Teller(Protocol):
    """Where an executor says how it goes."""

    def __call__(self, kind: str, text: str, percent: float | None = None) -> None: ...


class Executor(Protocol):
    """Runs in the main thread; KeyboardInterrupt ends it, once all that it made is removed."""

    @property
    def left(self) -> bool:
        """Whether the last run left something on its host that could not be removed."""

    def run(self, claim: Claim, tell: Teller, folder: Callable[[str], None]) -> Outcome:
        """Rehearse. ``folder`` is told where the record is kept, before anything is made.

        Raises :class:`NotNow` where the host has no room. What else fails is an ``error``.
        """

    def reap(self, host: str) -> tuple[str, ...]:
        """Remove what dead attempts left on a host; says what."""
