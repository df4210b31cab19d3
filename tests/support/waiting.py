"""How long a test is patient, and how it waits for what it can see."""

from __future__ import annotations

from collections.abc import Callable

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded

PATIENCE = 60.0  # seconds; a bound against waiting for ever, never a measurement


def soon(seconds: float = PATIENCE) -> Deadline:
    """A deadline that a test that works does not meet."""
    return Deadline(seconds, "test")


def wait_until(
    holds: Callable[[], object],
    what: str,
    *,
    seconds: float = PATIENCE,
    every: float = 0.05,
    explain: Callable[[], str] = str,
) -> None:
    """Wait until ``holds`` is true, asked again every so many seconds.

    Raises :class:`~sandbox.core.errors.DeadlineExceeded` that names ``what`` and ends with what
    ``explain`` returns.
    """
    deadline = Deadline(seconds, f"waiting for {what}")
    while not holds():
        deadline.check(explain())
        deadline.sleep(every)


def holds_soon(holds: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether it holds before so many seconds are over, for an assertion of its own."""
    try:
        wait_until(holds, "what is asserted", seconds=seconds, every=0.02)
    except DeadlineExceeded:
        return False
    return True
