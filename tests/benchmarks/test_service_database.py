"""The database after many runs: how large it is, and whether it is slower than after 1,000.

Filled as it is after 500 nights of 200 guests: verdicts and evidence of all runs, events of those
of the last 30 days. Both kinds of database are real.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.support.benchmarks.table import Measurement, Results
from tests.support.service.servers import postgres
from workers.database import Database, migrate, open_database
from workers.monitoring import metrics
from workers.queue import reading
from workers.queue.leases import claim, finish
from workers.queue.submission import submit
from workers.queue.values import Order, Outcome, Verdict

pytestmark = pytest.mark.benchmark

FEW = 1_000
HOSTS, EVENTS = 20, 60  # events of a run
YOUNG = 6  # percent of the runs still have theirs: 30 nights of 500
ROUNDS = 15
A_RUN = 6 << 10  # bytes that a run may take
SLOWER = 4.0  # times that what people and workers wait for may be
_PACKAGES = ("libssl3", "openssl", "libc6", "libc-bin", "curl", "libcurl4", "nginx", "nginx-common")
EVIDENCE = json.dumps(
    {
        "record": "20261125-031500-abc123",
        "tool_version": "0.9.0",
        "findings": ["unit nginx.service was active and is"],
        "hint": "",
        "packages": [
            [f"{name}-{n}", "3.0.14-1~deb12u1", "3.0.15-1~deb12u1"]
            for name in _PACKAGES
            for n in (1, 2)
        ],
        "kernel": ["6.1.0-26-amd64", "6.1.0-27-amd64"],
        "source": {"host": "xen+ssh://root@xen1.example.org/system", "guest": "web01"}
        | {"consistency": "paused", "paused_ms": 41.2, "memory": 2 << 30, "store": "lvm-thin"},
        "seconds": {f"phase-{n}": 12.345678901 for n in range(13)},
    }
)


@contextmanager
def databases_of(kind: str, folder: Path) -> Iterator[list[Database]]:
    """Two new ones."""
    with ExitStack() as stack:
        if kind == "SQLite":
            urls = [f"sqlite:///{folder}/truth{number}.db" for number in range(2)]
        else:
            server = stack.enter_context(postgres())
            urls = [server.new_database() for _ in range(2)]
        opened = [open_database(url) for url in urls]
        for database in opened:
            stack.callback(database.close)
            migrate(database)
        yield opened


def size_of(database: Database) -> int:
    """Bytes, once what was written is where it stays."""
    if database.engine.dialect.name == "sqlite":
        with database.engine.connect() as connection:
            connection.execution_options(sandbox_reading=True)
            connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        name = str(database.engine.url.database)
        return sum(os.path.getsize(path) for path in (name, f"{name}-wal"))
    with database.read() as connection:
        query = text("SELECT pg_database_size(current_database())")
        return int(connection.execute(query).scalar_one())


def fill(database: Database, first: int, last: int, events_from: int) -> None:
    """Runs of these numbers, with all that is kept of each."""
    postgresql = database.engine.dialect.name == "postgresql"
    json_type = "JSON" if postgresql else "TEXT"
    numbers = (
        "WITH RECURSIVE n(i) AS (SELECT CAST(:first AS INTEGER) UNION ALL"
        " SELECT i + 1 FROM n WHERE i < :last)"
    )
    day = "(1700000000.0 + i * 432.0)"  # 200 a day
    run = (
        "('20260101-' || substr(CAST(1000000 + i % 86400 AS TEXT), 2) || '-'"
        " || substr(CAST(1000000000 + i AS TEXT), 3))"
    )
    host = f"('xen' || CAST(100 + i % {HOSTS} AS TEXT))"
    guest = "('web' || CAST(1000 + i % 200 AS TEXT))"
    verdict = "(CASE WHEN i % 20 < 17 THEN 'pass' WHEN i % 20 = 17 THEN 'fail' ELSE 'error' END)"
    reason = "'12 packages upgraded, the expected kernel runs, every check that held before holds'"
    request = (
        f"""('{{"scenario": "security", "guest": "' || {guest} || '", "host": "' || {host}"""
        """ || '"}')"""
    )
    statements = (
        f"{numbers} INSERT INTO runs (id, scenario, guest, host, request, wish, state, priority,"
        " submitted, not_before, started, ended, attempts, most_attempts, fence, owner, phase,"
        f" origin, night, verdict, reason) SELECT {run}, 'security', {guest}, {host},"
        f" CAST({request} AS {json_type}),"
        " '0123456789abcdef0123456789abcdef0123456789abcdef01234567' || CAST(10000000 + i AS TEXT),"
        f" 'finished', 90, {day}, {day}, {day} + 5, {day} + 300, 1, 3, 1, 'xen1-4711', 'report',"
        f" 'schedule security-nightly', NULL, {verdict}, {reason} FROM n",
        f"{numbers} INSERT INTO attempts (run_id, fence, owner, folder, started, ended, outcome,"
        f" reason, artifacts, bytes) SELECT {run}, 1, 'xen1-4711', '20261125-031500-abc123',"
        f" {day} + 5, {day} + 300, {verdict}, {reason},"
        " CASE WHEN i >= :events THEN 'stored' ELSE 'expired' END, 250000 FROM n",
        f"{numbers} INSERT INTO verdicts (run_id, fence, verdict, reason, evidence, decided)"
        f" SELECT {run}, 1, {verdict}, {reason}, CAST(:evidence AS {json_type}), {day} + 300"
        " FROM n",
        f"{numbers}, e(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM e WHERE k < {EVENTS})"
        f" INSERT INTO events (run_id, at, kind, text) SELECT {run}, {day} + k, 'detail',"
        " 'unpacking libssl3 (3.0.15-1~deb12u1) over (3.0.14)' FROM n, e WHERE i >= :events",
    )
    given = {"first": first, "last": last, "events": events_from, "evidence": EVIDENCE}
    with database.write() as connection:
        if postgresql:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        for statement in statements:
            used = {name: value for name, value in given.items() if f":{name}" in statement}
            connection.execute(text(statement), used)
    if postgresql:  # as its autovacuum does in its own time
        with database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(
                text("VACUUM ANALYZE")
            )


def waits(databases: Sequence[Database]) -> list[dict[str, float]]:
    """Seconds of what people and workers wait for, the quickest of several; the databases take
    turns, since others use this machine, too."""
    works: dict[str, Callable[[Database], float]] = {
        "claim": _claimed,
        "status": lambda database: _timed(lambda: reading.recent(database)),
        "status of a guest": lambda one: _timed(lambda: reading.recent(one, guest="web1000")),
        "metrics": lambda database: _timed(lambda: metrics.text(database)),
    }
    found: list[dict[str, float]] = [{} for _ in databases]
    for name, work in works.items():
        for _ in range(ROUNDS):
            for database, times in zip(databases, found, strict=True):
                times[name] = min(work(database), times.get(name, float("inf")))
    return found


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _claimed(database: Database) -> float:
    submit(database, Order("security", "web1000", "xen100", fresh=True))
    begun = time.perf_counter()
    held = claim(database, "xen100", "worker-a", 60.0, 2, 2)
    took = time.perf_counter() - begun
    assert held is not None
    finish(database, held, Outcome(Verdict.PASS, "all is well"))
    return took


# `make test` has the smaller one, `make bench` both.
@pytest.mark.parametrize("many", [10_000, 100_000])
@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_the_database_after_many_runs(
    kind: str, many: int, results: Results, tmp_path: Path
) -> None:
    with databases_of(kind, tmp_path) as (small, large):
        fill(small, 1, FEW, events_from=FEW * (100 - YOUNG) // 100)
        fill(large, 1, many, events_from=many * (100 - YOUNG) // 100)
        taken = size_of(large)
        before, after = waits((small, large))
    results.add(
        Measurement(
            name=f"database-{many}-size-{kind.lower()}",
            what=f"{kind} with {many:,} runs against {A_RUN >> 10} KiB a run",
            ratio=taken / (many * A_RUN),
            most=1.0,
            allocated={f"with {many:,} runs": taken},
            note=f"{taken / many:,.0f} bytes a run",
        )
    )
    for name, limit in (
        ("claim", SLOWER),
        ("status", SLOWER),
        ("status of a guest", SLOWER),
        ("metrics", None),
    ):
        results.add(
            Measurement(
                name=f"database-{many}-{name.replace(' ', '-')}-{kind.lower()}",
                what=f"{kind}: {name} with {many:,} runs against {FEW:,}",
                ratio=after[name] / before[name],
                # Beside other tests times only inform; `make bench` holds to them.
                most=limit if many >= 100_000 else None,
                seconds={f"{FEW:,}": before[name], f"{many:,}": after[name]},
            )
        )
