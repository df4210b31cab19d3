"""The tasks: thin. Each looks into the database for what has to be done."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from celery import Celery

from sandbox.core.errors import SandboxError
from sandbox.hosts.inventory import find_host
from workers import logs
from workers.artifacts.worker_folders import keep_attempt
from workers.database import Database, open_database
from workers.monitoring import canary
from workers.monitoring.pools import look_at_pools
from workers.queue.celery_app import ENOUGH, announce, backlog, queue_of
from workers.queue.dispatch import Round, Turns
from workers.queue.leases import claim
from workers.queue.reclaim import note_left, was_reaped
from workers.queue.values import Claim
from workers.settings import ServiceSettings
from workers.worker import housekeeping
from workers.worker.attempt import work_off
from workers.worker.executor import Executor
from workers.worker.executors import executor_for

MANY = 3 * ENOUGH
MISSES = 20  # claims in a row that others were quicker at: they do the rest
GO_ON = 60.0  # seconds; then a wake ends, and its child may be replaced
log = structlog.get_logger("sandbox.tasks")


@dataclass
class Surroundings:
    """What a task needs; the connection is made in the process that uses it."""

    settings: ServiceSettings
    worker: str = ""
    slots: int = 1
    hosts: Sequence[str] = ()
    served: MutableSequence[float] = field(default_factory=list)  # when each host had its turn
    drained: Callable[[], bool] = lambda: False
    stopping: Callable[[], bool] = lambda: False
    _database: Database | None = None

    @property
    def database(self) -> Database:
        if self._database is None:
            self._database = open_database(self.settings.database)
        return self._database

    @property
    def executor(self) -> Executor:
        return executor_for(self.settings)

    def forget_connections(self) -> None:
        """After a fork: the parent's connections are the parent's."""
        if self._database is not None:
            self._database.engine.dispose(close=False)
            self._database = None


def register(app: Celery, around: Surroundings) -> None:
    """Give the app its tasks."""

    @app.task(name="sandbox.wake")  # type: ignore[untyped-decorator]
    def _wake(host: str) -> None:
        wake(app, around, host)

    @app.task(name="sandbox.reap")  # type: ignore[untyped-decorator]
    def _reap(host: str) -> None:
        reap(around, host)

    @app.task(name="sandbox.canary")  # type: ignore[untyped-decorator]
    def _canary(canary_id: str) -> None:
        canary.answer(around.database, canary_id, around.worker)

    @app.task(name="sandbox.tick")  # type: ignore[untyped-decorator]
    def _tick() -> None:
        tick(app, around)


def wake(app: Celery, around: Surroundings, host: str) -> None:
    """Do what is due on this worker's hosts, run after run, as long as it has a slot for it."""
    turns = Turns(around.hosts or (host,), around.served or [0.0])
    following = Round(
        around.database, turns, around.worker, around.slots, partial(parallel_of, around=around)
    )
    end, misses = time.monotonic() + GO_ON, 0
    # What is left stays queued for another worker, or for the next start.
    while not around.stopping() and misses < MISSES:
        due = following.next_host()
        if due is None:
            return
        if time.monotonic() > end:
            _announce_all_the_same(app, due)
            return
        asked = time.monotonic()
        held = claim(
            around.database,
            due,
            around.worker,
            around.settings.lease,
            parallel_of(due, around),
            around.slots,
        )
        if held is None:  # another worker was quicker
            misses += 1
        else:
            misses = 0
            _work_off(around, held, asked)


def _work_off(around: Surroundings, held: Claim, asked: float) -> None:
    with logs.about(run=held.run_id, attempt=held.attempt):
        lease = around.settings.lease
        executor = around.executor
        work_off(around.database, held, executor, lease, around.drained, asked)
        if executor.left:
            note_left(around.database, held.host)
        keep_attempt(around.database, around.settings, held)


def _announce_all_the_same(app: Celery, host: str) -> None:
    try:
        announce(app, host)
    except Exception as problem:  # kombu's own kinds are many
        log.warning("not announced; the next tick will", host=host, problem=str(problem))


def parallel_of(host: str, around: Surroundings) -> int:
    """How many rehearsals a host takes at once: what hosts.yaml says, else this worker's slots."""
    try:
        limit = find_host(host, around.settings.sandbox).limits.parallel
    except SandboxError:
        limit = None  # an unknown host: the rehearsal itself reports it
    return around.slots if limit is None else limit


def reap(around: Surroundings, host: str) -> None:
    """Remove what dead attempts left on a host."""
    asked = around.database.now()
    try:
        removed = around.executor.reap(host)
    except SandboxError as problem:  # where it was asked for, it is asked for again
        log.warning("not reaped yet", host=host, problem=str(problem))
        return
    was_reaped(around.database, host, asked)
    if removed:
        log.info("reaped", host=host, removed=removed)
        housekeeping.count_reaped(around.database, len(removed))
    look_at_pools(around.database, around.settings, host)


def tick(app: Celery, around: Surroundings) -> None:
    """Periodic tasks, done by the worker that gets the message. The messages of several beats, and
    those that piled up while no worker ran, count as one."""
    try:
        if not housekeeping.is_turn(around.database, "tick_begun", around.settings.tick / 2):
            return
    except SandboxError as problem:
        log.warning("no tick without the database", problem=str(problem))
        return
    wake_up, clean = partial(announce, app), partial(send_reap, app)
    housekeeping.tick(around.database, around.settings, wake_up, clean)


def send_reap(app: Celery, host: str) -> None:
    """Let a worker of the host look for what dead attempts left.

    A host whose workers are away for a week does not find a message of every tick.
    """
    if backlog(app, queue_of(host)) < MANY:
        app.send_task("sandbox.reap", (host,), queue=queue_of(host), ignore_result=True)
