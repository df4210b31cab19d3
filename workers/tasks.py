"""The tasks: thin. Each looks into the database for what has to be done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog
from celery import Celery

from sandbox.errors import SandboxError
from sandbox.hosts import find_host
from workers import canary, housekeeping, logs
from workers.app import queue_of
from workers.attempt import work_off
from workers.database import Database, open_database
from workers.executors import Executor, executor_for
from workers.keeping import keep_attempt
from workers.ledger import reading
from workers.ledger.leases import claim
from workers.pools import look_at_pools
from workers.settings import ServiceSettings

log = structlog.get_logger("sandbox.tasks")


@dataclass
class Surroundings:
    """What a task needs; the connection is made in the process that uses it."""

    settings: ServiceSettings
    worker: str = ""
    slots: int = 1
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


def announce(app: Celery, host: str, count: int = 1) -> None:
    """Wake a host's workers. Should the message be lost, the next tick sends another."""
    for _ in range(count):
        app.send_task("sandbox.wake", (host,), queue=queue_of(host), ignore_result=True)


def wake(app: Celery, around: Surroundings, host: str) -> None:
    """Do the host's next run, if there is one and the host and this worker may take it."""
    if around.stopping():
        return  # it stays queued for another worker, or for the next start
    held = claim(
        around.database,
        host,
        around.worker,
        around.settings.lease,
        parallel_of(host, around),
        around.slots,
    )
    if held is None:
        return
    with logs.about(run=held.run_id, attempt=held.attempt):
        work_off(around.database, held, around.executor, around.settings.lease, around.drained)
        keep_attempt(around.database, around.settings, held)
    if not around.stopping() and reading.due_hosts(around.database).get(host):
        try:
            announce(app, host)
        except Exception as problem:  # kombu's own kinds are many
            log.warning("not announced; the next tick will", host=host, problem=str(problem))


def parallel_of(host: str, around: Surroundings) -> int:
    """How many rehearsals a host takes at once: what hosts.yaml says, else this worker's slots."""
    try:
        limit = find_host(host, around.settings.sandbox).limits.parallel
    except SandboxError:
        limit = None  # a host that nobody knows: the rehearsal itself says so
    return around.slots if limit is None else limit


def reap(around: Surroundings, host: str) -> None:
    """Remove what dead attempts left on a host."""
    removed = around.executor.reap(host)
    if removed:
        log.info("reaped", host=host, removed=removed)
        housekeeping.count_reaped(around.database, len(removed))
    look_at_pools(around.database, around.settings, host)


def tick(app: Celery, around: Surroundings) -> None:
    """What has to be done regularly, by whoever gets the message."""
    housekeeping.tick(
        around.database, around.settings, partial(announce, app), partial(send_reap, app)
    )


def send_reap(app: Celery, host: str) -> None:
    """Let a worker of the host look for what dead attempts left."""
    app.send_task("sandbox.reap", (host,), queue=queue_of(host), ignore_result=True)
