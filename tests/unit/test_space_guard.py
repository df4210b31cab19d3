"""The guard that gives a clone up before a running source's writes fail."""

from __future__ import annotations

import threading

from sandbox.clone.space_guard import SpaceGuard
from sandbox.core.errors import HostError


class Alarm:
    """Remembers what it was told, and by which thread."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.threads: set[str] = set()
        self.rung = threading.Event()

    def __call__(self, why: str) -> None:
        self.said.append(why)
        self.threads.add(threading.current_thread().name)
        self.rung.set()


def test_a_host_that_does_not_answer_is_asked_again() -> None:
    alarm, answers = Alarm(), iter([HostError("cut off"), HostError("cut off")])

    def danger() -> str:
        for problem in answers:
            raise problem
        return "the pool is 96 % full"

    with SpaceGuard(danger, alarm, interval=0.01):
        assert alarm.rung.wait(5)
    assert alarm.said == ["the pool is 96 % full"]
