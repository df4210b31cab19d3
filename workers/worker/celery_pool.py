"""Celery's pool of processes, but for a fault of its: when the broker comes back just as a child
has ended, Celery 5.7 takes the child's closed descriptor for an unrecoverable error, and the
worker dies with all that it is doing."""

from __future__ import annotations

from typing import Any

from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool


class _Children(AsynPool):  # type: ignore[misc]
    def _track_child_process(self, proc: Any, hub: Any) -> None:
        if getattr(proc, "_sentinel_poll", self) is None:
            return  # it has ended and was heard: the pool's timer replaces it
        super()._track_child_process(proc, hub)


class Pool(TaskPool):  # type: ignore[misc]
    """Prefork, with children that may end at any time."""

    Pool = _Children
