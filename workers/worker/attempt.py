"""One attempt: an executor at work under a lease that a thread keeps, and how it ends.

A worker that cannot renew its lease must not go on: another worker may have the run. So the
attempt is interrupted, as it is when a user cancels the run or the worker drains. What it made is
removed before anything is written.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from functools import partial

import structlog

from sandbox.core.errors import RequestError, SandboxError
from sandbox.core.interruption import interruptible
from sandbox.core.records import Verdict
from workers.database import Database
from workers.database.states import RunState
from workers.queue.history import past_of
from workers.queue.leases import (
    LeaseLost,
    finish,
    hand_back,
    not_now,
    note_folder,
    renew,
    stopped,
    tell,
)
from workers.queue.values import Claim, NotNow, Outcome, Renewal
from workers.worker.executor import Executor

SAFE = 0.75  # of a lease: without an answer of the database until then the attempt is ended
_TELL_EVERY = 1.0  # seconds between two details; phases are told at once
log = structlog.get_logger("sandbox.attempt")


class Why(Enum):
    """Why an attempt was interrupted."""

    CANCELLED = "cancelled"
    LOST = "its lease was lost"
    DRAINED = "the worker is being stopped"


class Keeper:
    """Renews a lease from a thread, and interrupts the main thread when the attempt must end."""

    def __init__(
        self,
        database: Database,
        claim: Claim,
        lease: float,
        drained: Callable[[], bool] = lambda: False,
        interrupt: Callable[[], None] | None = None,
        claimed: float | None = None,
    ) -> None:
        self._database = database
        self._claim = claim
        self._lease = lease
        self._drained = drained
        self._interrupt = interrupt or _interrupt_main_thread
        self._end = threading.Event()
        # The lease runs since the claim was asked for, by this machine's clock.
        self._renewed = time.monotonic() if claimed is None else claimed
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("lease", self._work), ("lease-watch", self._watch))
        ]
        self._lock = threading.Lock()
        self._quiet = False
        self.why: Why | None = None

    def __enter__(self) -> Keeper:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _watch(self) -> None:
        """A database that does not answer may hold the other thread longer than the lease lasts."""
        while not self._end.wait(self._lease / 20):
            if time.monotonic() - self._renewed > self._lease * SAFE:
                self._stop(Why.LOST)
                return

    def _work(self) -> None:
        pause = self._lease / 4
        while not self._end.wait(pause):
            asked = time.monotonic()
            pause = self._lease / 4
            try:
                state = renew(self._database, self._claim, self._lease)
            except SandboxError as problem:
                log.warning("lease not renewed", run=self._claim.run_id, problem=str(problem))
                pause = min(1.0, self._lease / 10)  # it may come back
                continue
            self._renewed = asked
            if state is Renewal.LOST:
                self._stop(Why.LOST)
                return
            if state is Renewal.CANCEL:
                self._stop(Why.CANCELLED)  # and keep the lease while the clone is removed
            elif self._drained():
                self._stop(Why.DRAINED)

    def _stop(self, why: Why) -> None:
        with self._lock:
            if self.why is None or why is Why.LOST:
                first, self.why = self.why is None, why
                if first and not self._quiet:
                    self._interrupt()

    def lost(self) -> None:
        """A write was refused, since the lease is lost."""
        self._stop(Why.LOST)

    def quiet(self) -> bool:
        """The executor is done: from now on nothing is interrupted, the lease is only kept.

        Whether it was interrupted before.
        """
        with self._lock:
            already, self._quiet = self._quiet, True
            return not already and self.why is not None


def _interrupt_main_thread() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def work_off(
    database: Database,
    claim: Claim,
    executor: Executor,
    lease: float,
    drained: Callable[[], bool] = lambda: False,
    claimed: float | None = None,
) -> RunState | None:
    """Execute a claimed run; returns its state, or None when another worker holds the lease.

    Runs in the main thread of its process. ``claimed``: the monotonic time before the claim.
    """
    logger = log.bind(run=claim.run_id, attempt=claim.attempt, guest=claim.guest, host=claim.host)
    # Asked while nothing interrupts: an interruption within a database's driver may get lost.
    try:
        claim = replace(claim, past=past_of(database, claim))
    except SandboxError as problem:
        logger.warning("judged without what earlier runs say", problem=str(problem))
    if claimed is not None and time.monotonic() - claimed > lease * SAFE:
        # The database was silent in mid-claim: by now the run may be another worker's.
        logger.warning("claimed too late, not begun")
        return None
    logger.info("attempt begins", scenario=claim.scenario)
    with Keeper(database, claim, lease, drained, claimed=claimed) as keeper:
        end = _run(database, claim, executor, keeper)
        try:
            state = end()
        except SandboxError as problem:  # the lease is lost, or will be: the sweeper goes on
            logger.warning("attempt not written down", problem=str(problem))
            state = None
    logger.info("attempt ended", state=state.value if state else "lost")
    return state


def _run(
    database: Database, claim: Claim, executor: Executor, keeper: Keeper
) -> Callable[[], RunState]:
    """Let the executor work; what has to be written down about how that ended."""
    teller = _Teller(database, claim, keeper.lost)
    try:
        with interruptible(), teller as tell:
            outcome = executor.run(claim, tell, tell.folder)
            keeper.quiet()
    except KeyboardInterrupt:
        return _interrupted(database, claim, keeper)
    except NotNow as problem:
        no_room = problem.message
        return lambda: not_now(database, claim, no_room)
    except RequestError as problem:  # no second try makes it right
        outcome = Outcome(Verdict.REJECTED, problem.message, {"hint": problem.hint})
    except SandboxError as problem:
        outcome = Outcome(Verdict.ERROR, problem.message)
    except Exception as problem:
        log.exception("a fault of ours", run=claim.run_id)
        outcome = Outcome(Verdict.ERROR, f"a fault of ours: {type(problem).__name__}: {problem}")
    if keeper.quiet():  # what failed, failed because it was interrupted
        return _interrupted(database, claim, keeper)

    def write() -> RunState:
        teller.note_folder()  # without it the verdict's evidence could not be found
        state = finish(database, claim, outcome)
        log.info("outcome", run=claim.run_id, outcome=outcome.verdict.value, reason=outcome.reason)
        return state

    return lambda: _persistently(write, claim, keeper)


def _interrupted(database: Database, claim: Claim, keeper: Keeper) -> Callable[[], RunState]:
    if keeper.why is Why.CANCELLED:
        return lambda: stopped(database, claim)
    why = (keeper.why or Why.DRAINED).value
    return lambda: hand_back(database, claim, why, 0.0)


def _persistently(write: Callable[[], RunState], claim: Claim, keeper: Keeper) -> RunState:
    """An hour's work is not given away for a database that is away for a moment: as long as the
    lease may still be ours, it is tried again."""
    while True:
        try:
            return write()
        except LeaseLost:
            raise
        except SandboxError as problem:
            log.warning("verdict not written yet", run=claim.run_id, problem=str(problem))
            if keeper.why is Why.LOST:
                raise LeaseLost(claim) from problem
            time.sleep(1.0)


class _Teller:
    """Writes the attempt's events from a thread; details not too often, nor twice in a row.

    Not from the main thread: an interruption that meets a database's driver at work may come out
    as an error of the driver's, and be lost. Nor may a database that hangs hold the attempt. The
    lease decides whether the attempt may go on, not an event that could not be written.
    """

    def __init__(self, database: Database, claim: Claim, lost: Callable[[], None]) -> None:
        self._database = database
        self._claim = claim
        self._lost = lost
        self._told = 0.0
        self._folder = ""  # that is not written down yet
        self._last: tuple[str, str, int | None] | None = None
        self._lines: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="teller", daemon=True)

    def __enter__(self) -> _Teller:
        self._thread.start()
        return self

    def __exit__(self, failed: type[BaseException] | None, *_details: object) -> None:
        self._lines.put(None)
        if failed is None:  # in order: the lines before the verdict
            self._thread.join()

    def __call__(self, kind: str, text: str, percent: float | None = None) -> None:
        # As `watch` shows it: a part of a percent more is nothing new.
        line = (kind, text, None if percent is None else round(percent))
        too_soon = time.monotonic() - self._told < _TELL_EVERY
        if kind == "detail" and (too_soon or line == self._last):
            return
        self._told, self._last = time.monotonic(), line
        self._lines.put(partial(tell, self._database, self._claim, kind, text, percent))

    def folder(self, name: str) -> None:
        """Where the record is; back when it is written down, or when that did not work."""
        done = threading.Event()
        self._folder = name

        def note() -> None:
            try:
                self.note_folder()
            finally:
                done.set()

        self._lines.put(note)
        done.wait()

    def note_folder(self) -> None:
        """Write it down, if that has not worked before."""
        if self._folder:
            note_folder(self._database, self._claim, self._folder)
            self._folder = ""

    def _work(self) -> None:
        while (write := self._lines.get()) is not None:
            try:
                write()
            except LeaseLost:
                self._lost()
            except Exception as problem:  # whatever it is: the next line may be written again
                log.warning("not told", run=self._claim.run_id, problem=str(problem))
