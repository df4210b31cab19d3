"""One clock per phase, passed down: a function gets what is left, not a time-out of its own."""

from __future__ import annotations

import time

from sandbox.core.errors import DeadlineExceeded


class Deadline:
    """A point in monotonic time with the name of the phase it belongs to."""

    def __init__(self, seconds: float, phase: str) -> None:
        self.seconds = seconds
        self.phase = phase
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    def expired(self) -> bool:
        return self.remaining() <= 0.0

    def check(self, hint: str = "") -> None:
        """Raise :class:`DeadlineExceeded` when the time is over."""
        if self.expired():
            raise DeadlineExceeded(self.phase, self.seconds, hint)

    def sleep(self, seconds: float) -> None:
        """Sleep, but not past the deadline; raise when it has passed."""
        self.check()
        time.sleep(min(seconds, self.remaining()))

    def within(self, seconds: float) -> Deadline:
        """A deadline for a part of the phase: the sooner of ``seconds`` and what is left."""
        return Deadline(min(seconds, self.remaining()), self.phase)
