"""Prometheus metrics, read from the database at each scrape: their values do not depend on the
process that serves them, nor on its restarts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from sqlalchemy import Connection, Select, func, select

from sandbox.core.errors import RequestError, SandboxError
from sandbox.core.records import Verdict
from workers.database import Database, open_database
from workers.database.clock import now
from workers.database.schema import counters, pools, runs, state_in
from workers.database.states import HELD, RunState
from workers.monitoring.listen_address import address
from workers.monitoring.pools import STALE
from workers.queue.counters import PHASE_COUNT, PHASE_SECONDS, TICKED
from workers.queue.presence import present
from workers.settings import ServiceSettings

_COUNTED = {
    "leases_lost": "Runs whose worker was lost while it held them.",
    "things_reaped": "Domains, volumes, bridges and the like that dead runs left, removed.",
    "artifacts_expired": "Records whose artifacts were removed for their age or size.",
}
log = structlog.get_logger("sandbox.metrics")


class Collector:
    """Implements prometheus_client's: all of ours, from one look at the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("sandbox_database_up", "Whether the database answers.")
        families: list[Metric] = []
        try:
            with self._database.read() as connection:
                for read in (_queue, _held, _verdicts, _counts, _phases, _pools):
                    families += read(connection)
            families.append(_workers(self._database))
        except SandboxError as problem:
            log.warning("no metrics but one", problem=str(problem))
            families = []
        up.add_metric((), float(bool(families)))
        yield up
        yield from families


def _queue(connection: Connection) -> list[Metric]:
    depth = GaugeMetricFamily("sandbox_queue_runs", "Runs that wait.", labels=("host",))
    age = GaugeMetricFamily(
        "sandbox_queue_oldest_seconds", "How long the oldest of them waits.", labels=("host",)
    )
    query = (
        select(runs.c.host, func.count(), now() - func.min(runs.c.submitted))
        .where(state_in(runs, RunState.QUEUED))
        .group_by(runs.c.host)
    )
    for host, waiting, oldest in connection.execute(query):
        depth.add_metric((host,), waiting)
        age.add_metric((host,), max(0.0, oldest))
    return [depth, age]


def _held(connection: Connection) -> list[Metric]:
    held = GaugeMetricFamily("sandbox_running_runs", "Runs in hand.", labels=("host",))
    query = select(runs.c.host, func.count()).where(state_in(runs, *HELD)).group_by(runs.c.host)
    for host, there in connection.execute(query):
        held.add_metric((host,), there)
    return [held]


def _verdicts(connection: Connection) -> list[Metric]:
    family = CounterMetricFamily("sandbox_runs", "Finished runs.", labels=("verdict",))
    query = (
        select(runs.c.verdict, func.count())
        .where(runs.c.verdict.is_not(None))
        .group_by(runs.c.verdict)
    )
    found = _pairs(connection, query)
    for verdict in Verdict:
        family.add_metric((verdict.value,), found.get(verdict.value, 0))
    return [family]


def _counts(connection: Connection) -> list[Metric]:
    query = select(counters.c.name, counters.c.value).where(counters.c.name.in_(_COUNTED))
    found = _pairs(connection, query)
    families: list[Metric] = []
    for name, about in _COUNTED.items():
        family = CounterMetricFamily(f"sandbox_{name}", about)
        family.add_metric((), found.get(name, 0.0))
        families.append(family)
    tick = GaugeMetricFamily("sandbox_last_tick_seconds", "Seconds since the last tick.")
    since = connection.execute(
        select(now() - counters.c.value).where(counters.c.name == TICKED)
    ).scalar()
    if since is not None:
        tick.add_metric((), max(0.0, since))
    return [*families, tick]


def _phases(connection: Connection) -> list[Metric]:
    family = SummaryMetricFamily(
        "sandbox_phase_seconds", "How long the phases of rehearsals took.", labels=("phase",)
    )
    query = select(counters.c.name, counters.c.value).where(counters.c.name.like("phase%"))
    found = _pairs(connection, query)
    for name, many in sorted(found.items()):
        if name.startswith(PHASE_COUNT):
            phase = name.removeprefix(PHASE_COUNT)
            seconds = found.get(f"{PHASE_SECONDS}{phase}", 0.0)
            family.add_metric((phase,), count_value=int(many), sum_value=seconds)
    return [family]


def _pools(connection: Connection) -> list[Metric]:
    fill = GaugeMetricFamily(
        "sandbox_pool_fill_percent",
        "How full the hosts' thin pools were when a worker last looked.",
        labels=("host", "pool", "part"),
    )
    query = select(pools).where(pools.c.looked > now() - STALE)
    for row in connection.execute(query.order_by(pools.c.host, pools.c.pool)):
        fill.add_metric((row.host, row.pool, "data"), row.data)
        fill.add_metric((row.host, row.pool, "metadata"), row.metadata)
    return [fill]


def _pairs(connection: Connection, query: Select[Any]) -> dict[str, float]:
    return {str(row[0]): float(row[1]) for row in connection.execute(query)}


def _workers(database: Database) -> Metric:
    family = GaugeMetricFamily("sandbox_workers", "Workers by state.", labels=("state",))
    found = {"up": 0, "draining": 0, "gone": 0}
    for worker in present(database):
        found["gone" if worker.gone else worker.state] += 1
    for state, many in found.items():
        family.add_metric((state,), many)
    return family


# -- served -----------------------------------------------------------------------------------


def text(database: Database) -> str:
    return generate_latest(_registry(database)).decode()


def serve(settings: ServiceSettings, listen: str) -> Served:
    """Serve them at HOST:PORT from a thread; raises :class:`RequestError` when that is taken."""
    host, port = address(listen, "127.0.0.1:9171")
    database = open_database(settings.database)
    try:
        server, thread = start_http_server(port, host, _registry(database))
    except OSError as problem:
        database.close()
        raise RequestError(
            f"metrics cannot be served at {listen}: {problem}", "choose another HOST:PORT"
        ) from problem
    return Served(server, thread, database)


class Served:
    """A server in a thread of this process."""

    def __init__(self, server: Any, thread: threading.Thread, database: Database) -> None:
        self._server = server
        self._database = database
        self.thread = thread

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    def forget(self) -> None:
        """After a fork: the port is the parent's."""
        self._server.socket.close()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.thread.join()
        self._database.close()


def serve_if_asked(settings: ServiceSettings) -> Served | None:
    """A worker's: one that cannot serve metrics works all the same."""
    if not settings.metrics:
        return None
    try:
        served = serve(settings, settings.metrics)
        log.info("metrics served", port=served.port)
        return served
    except RequestError as problem:
        log.warning("metrics not served", problem=str(problem))
        return None


def _registry(database: Database) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    collector: Any = Collector(database)
    register: Callable[[Any], None] = registry.register
    register(collector)
    return registry
