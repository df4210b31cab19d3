"""The service's processes: a worker for some hosts, and the beat. Celery is underneath.

A worker has one child more than it has slots for rehearsals, so that it always hears what else
there is to do. SIGTERM drains it: nothing new is begun, what runs may finish within a limit, and
what does not is handed back, its clone removed.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import time
import warnings
from collections.abc import MutableSequence, Sequence
from typing import Any, cast

import structlog
from celery import signals
from celery.beat import Scheduler
from celery.exceptions import SecurityWarning

from sandbox.core.errors import SandboxError
from workers import logs
from workers.artifacts.places import place_for
from workers.artifacts.worker_folders import Keeping
from workers.database import open_database, require_schema
from workers.monitoring.metrics import serve_if_asked
from workers.queue import reading
from workers.queue.celery_app import SERVICE_QUEUE, announce, make_app, queue_of
from workers.queue.presence import Presence
from workers.settings import ServiceSettings
from workers.worker.celery_pool import Pool
from workers.worker.executors import executor_for
from workers.worker.tasks import Surroundings, register, send_reap

# Seconds after which a tick is not worth a look any more. Two machines' clocks are compared for it:
# one that is wrong by less must not keep the service from ticking.
STALE = 3600.0
log = structlog.get_logger("sandbox.worker")


def worker_name() -> str:
    """Says where it is; another one after a restart."""
    return f"{socket.gethostname()}-{os.getpid()}"


def run_worker(settings: ServiceSettings, hosts: Sequence[str], slots: int) -> int:
    """Work until SIGTERM; the exit status. Raises :class:`HostError` where the database is not
    ready."""
    logs.hide_secrets_of(settings)
    database = open_database(settings.database)
    require_schema(database)
    database.close()
    place_for(settings)  # one that is wrong is said now
    name = worker_name()
    # Rehearsals on this machine need root, and messages are JSON: nothing in them is run.
    warnings.simplefilter("ignore", SecurityWarning)
    # Shared with the children, which are forked: when what still runs has to be given back.
    drain_at = multiprocessing.Value("d", 0.0)
    around = Surroundings(
        settings,
        worker=name,
        slots=slots,
        hosts=tuple(hosts),
        served=cast("MutableSequence[float]", multiprocessing.RawArray("d", len(hosts))),
        stopping=lambda: drain_at.value > 0,
        drained=lambda: 0 < drain_at.value <= time.time(),
    )
    app = make_app(settings)
    register(app, around)
    presence = Presence(settings.database, name, hosts, slots)
    keeping = Keeping(settings)
    served = serve_if_asked(settings)

    def ready(**_details: Any) -> None:
        presence.start()
        keeping.start()
        log.info("worker ready", worker=name, hosts=list(hosts), slots=slots)
        for host in hosts:
            send_reap(app, host)
        for host in _due(settings, hosts)[:slots]:  # each message wakes for all of them
            announce(app, host, slots)

    def stop(**_details: Any) -> None:
        if not drain_at.value:
            drain_at.value = time.time() + settings.drain
            log.info("draining", worker=name, seconds=settings.drain)
            presence.drain()
        elif drain_at.value > time.time():  # a second SIGTERM: no more patience
            drain_at.value = time.time()
            log.info("handing back what still runs", worker=name)

    def child_begins(**_details: Any) -> None:
        around.forget_connections()
        if served is not None:
            served.forget()

    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(stop, weak=False)
    signals.worker_process_init.connect(child_begins, weak=False)
    signals.setup_logging.connect(_keep_our_logging, weak=False)
    worker = app.Worker(
        hostname=name,
        queues=[SERVICE_QUEUE, *map(queue_of, hosts)],
        concurrency=slots + 1,
        pool=Pool,
        optimization="fair",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    executor_for(settings)  # imported once here, not in every child
    # Celery collects garbage before each fork, 0.1 s of a busy core: not in what is there by now,
    # which also stays shared with the children.
    gc.collect()
    gc.freeze()
    worker.start()
    keeping.stop()
    if served is not None:
        served.stop()
    presence.stop()
    return int(worker.exitcode or 0)


def _due(settings: ServiceSettings, hosts: Sequence[str]) -> list[str]:
    database = open_database(settings.database)  # not for the children
    try:
        due = reading.due_hosts(database)
    except SandboxError as problem:
        log.warning("what is due is not known; the next tick wakes", problem=str(problem))
        due = {}
    finally:
        database.close()
    return [host for host in hosts if host in due]


def run_beat(settings: ServiceSettings) -> None:
    """Send a tick every few seconds, until SIGTERM. Any number of beats does no harm."""
    logs.hide_secrets_of(settings)
    app = make_app(settings)
    signals.setup_logging.connect(_keep_our_logging, weak=False)
    app.conf.beat_schedule = {
        "tick": {
            "task": "sandbox.tick",
            "schedule": settings.tick,
            "options": {"queue": SERVICE_QUEUE, "expires": STALE},
        }
    }
    log.info("beat begins", every=settings.tick)
    # In memory: what was done when is in the database.
    app.Beat(scheduler_cls=_Ticker, max_interval=settings.tick, quiet=True).run()


class _Ticker(Scheduler):  # type: ignore[misc]
    """The first tick at once: a service that comes back has something to catch up with."""

    def setup_schedule(self) -> None:
        super().setup_schedule()
        long_ago = self.app.now().replace(year=2000)
        for entry in self.schedule.values():
            entry.last_run_at = long_ago


def _keep_our_logging(**_details: Any) -> None:
    logs.configure()
