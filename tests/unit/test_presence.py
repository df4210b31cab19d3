"""A worker's row, which a thread keeps fresh."""

from __future__ import annotations

from workers.queue.presence import Presence


def test_a_worker_that_is_told_to_end_before_it_is_ready_ends() -> None:
    """SIGTERM in the first second: the thread was never started."""
    presence = Presence("postgresql+psycopg:///nowhere", "worker1", ["xen1"], 2)
    presence.drain()
    presence.stop()
