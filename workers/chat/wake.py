"""Wakes the workers of hosts that have a run to begin: by a thread, so that neither an answer nor a
message waits for a broker that is away. What is not told to them now, the next tick tells."""

from __future__ import annotations

import contextlib
import queue
import threading

import structlog

from workers.queue import intake
from workers.settings import ServiceSettings

log = structlog.get_logger("sandbox.chat")


class Waker(threading.Thread):
    def __init__(self, settings: ServiceSettings) -> None:
        super().__init__(name="chat waker", daemon=True)
        self._settings = settings
        self._hosts: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def wake(self, host: str) -> None:
        self._hosts.put(host)

    def end(self) -> None:
        self._hosts.put(None)

    def run(self) -> None:
        """One message for all that was asked meanwhile: it is the host's, not a run's."""
        while (first := self._hosts.get()) is not None:
            asked = {first}
            with contextlib.suppress(queue.Empty):  # that was all
                while (host := self._hosts.get_nowait()) is not None:
                    asked.add(host)
                self._hosts.put(None)
            for host in sorted(asked):
                intake.wake(self._settings, host, _say)


def _say(problem: str) -> None:
    log.warning("workers were not woken", problem=problem)
