"""Says how runs go: a thread for each channel, so that a vendor that is slow keeps only its own
messages waiting. Several processes may do it at once: a message is taken by its row."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping

import structlog

from sandbox.core.clean_text import one_line
from sandbox.core.errors import SandboxError
from workers.chat import outbox, run_messages
from workers.chat.outbox import Waiting
from workers.chat.values import Channel, Chat, Gone, Messenger, Telling, TryLater
from workers.chat.vendors.registry import KINDS
from workers.chat.wake import Waker
from workers.database import Database
from workers.logs import without_secrets
from workers.queue import reading
from workers.queue.values import RunRow
from workers.settings import ServiceSettings

LOOK_EVERY = 1.0  # seconds
_FORGET_EVERY = 3600.0  # seconds
_END = 8.0  # seconds that a message has when the process ends; else it may come twice
log = structlog.get_logger("sandbox.chat")


@contextlib.contextmanager
def sending(settings: ServiceSettings, database: Database, chat: Chat) -> Iterator[Senders]:
    """Send as long as the context lasts."""
    senders = Senders(settings, database, chat)
    try:
        yield senders
    finally:
        senders.end()


class Senders:
    """All of a process."""

    def __init__(self, settings: ServiceSettings, database: Database, chat: Chat) -> None:
        self._threads = {one.name: Sender(database, one, chat.link) for one in chat.channels}
        self._waker = Waker(settings)
        for thread in (*self._threads.values(), self._waker):
            thread.start()

    def wake(self, host: str) -> None:
        """Its workers have something to do."""
        self._waker.wake(host)

    def hurry(self, channel: str) -> None:
        """There is something to say."""
        self._threads[channel].woken.set()

    def end(self) -> None:
        self._waker.end()
        for thread in self._threads.values():
            thread.ending = True
            thread.woken.set()
        deadline = time.monotonic() + _END
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))


class Sender(threading.Thread):
    """Of one channel."""

    def __init__(self, database: Database, channel: Channel, link: str) -> None:
        super().__init__(name=f"chat {channel.name}", daemon=True)
        self.woken = threading.Event()
        self.ending = False
        self._database = database
        self._channel = channel
        self._link = link
        self._messages: Messenger | None = None
        self._forgotten = 0.0

    def run(self) -> None:
        while not self.ending:
            try:
                self.turn()
            except Exception as problem:  # the database's; a thread that ended would say nothing
                log.warning(
                    "no messages are sent", channel=self._channel.name, problem=str(problem)
                )
                self.woken.wait(5 * LOOK_EVERY)
            self.woken.wait(LOOK_EVERY)
            self.woken.clear()

    def turn(self) -> None:
        """Send what is new."""
        open_ones = outbox.waiting(self._database, self._channel.name)
        about = [one.run_id for one in open_ones if one.run_id]
        runs = reading.several(self._database, about) if about else {}
        for message in open_ones:
            if self.ending:
                return
            told = self._telling(message, runs)
            if outbox.digest(told) == message.said and not told.final:
                continue
            if outbox.take(self._database, message) and not self._send(message, told):
                return
        if time.monotonic() - self._forgotten > _FORGET_EVERY:
            outbox.forget(self._database)
            self._forgotten = time.monotonic()

    def _telling(self, message: Waiting, runs: Mapping[str, RunRow]) -> Telling:
        if message.run_id is None:
            return run_messages.of_lines(message.lines)
        return run_messages.of_run(runs[message.run_id], self._link)

    def _send(self, message: Waiting, told: Telling) -> bool:
        """False when the channel wants quiet."""
        facts = {"channel": self._channel.name, "run": message.run_id or ""}
        try:
            if self._messages is None:
                self._messages = KINDS[self._channel.kind].messages(self._channel)
            known = self._messages.send(message.place, message.known, told)
        except TryLater as problem:
            log.info("messages wait", **facts, seconds=problem.seconds)
            outbox.wait(self._database, self._channel.name, message, problem.seconds)
            return False
        except Exception as problem:  # libraries raise what they like
            why = problem.message if isinstance(problem, SandboxError) else _short(problem)
            gone = isinstance(problem, Gone)
            again = outbox.failed(self._database, message, why, gone=gone)
            level = log.warning if again else log.error
            level("message not sent", **facts, problem=why, tried=message.tries + 1, again=again)
            return True
        outbox.sent(self._database, message, known, told)
        return True


def _short(problem: Exception) -> str:
    return one_line(without_secrets(f"{type(problem).__name__}: {problem}"), 300)
