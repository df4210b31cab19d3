"""The queue at full size: 10,000 runs on 200 hosts, through real servers and processes.

A quarter of an hour on two cores; `make test` has the small edition, test_service_scale.py.
"""

from __future__ import annotations

import pytest

from tests.benchmarks.test_service_scale import wait_alone
from tests.support.benchmarks.fleet import Measured, fleet
from tests.support.benchmarks.table import Measurement, Results

pytestmark = pytest.mark.benchmark

HOSTS, WORKERS, SLOTS = 200, 4, 2
FEW, MANY = 2_000, 10_000
LINEAR = 1.3
MEMORY = 1.25  # of a worker after all runs, against before
ALONE = 50
SHORT = 400


def test_ten_thousand_runs_on_two_hundred_hosts(results: Results) -> None:
    with fleet(hosts=HOSTS) as service:
        service.start_workers(WORKERS, SLOTS)
        service.start_beat()
        before = [worker.memory() for worker in service.workers]
        few = service.measure(range(FEW))
        many = service.measure(range(FEW, FEW + MANY))
        after = [worker.memory() for worker in service.workers]
        service.check_nothing_lost_or_doubled(FEW + MANY)
        waits = wait_alone(service, ALONE)
    print_wait(few, many)
    results.add(
        Measurement(
            name="queue-linear",
            what=f"CPU of the queue for a run: among {MANY:,} against among {FEW:,}",
            ratio=many.each / few.each,
            most=LINEAR,
            seconds={f"among {FEW:,}": few.each, f"among {MANY:,}": many.each},
            note=f"{WORKERS} workers of {SLOTS} slots, {MANY / many.seconds:.1f} runs a second",
        )
    )
    results.add(
        Measurement(
            name="queue-wait",
            what=f"from submit to start, {MANY:,} at once: the longest against the time for all",
            ratio=many.wait(99) / many.seconds,
            most=1.0,
            seconds={"p50": many.wait(50), "p99": many.wait(99), "all": many.seconds},
        )
    )
    results.add(
        Measurement(
            name="queue-idle-wait",
            what="from submit to start with nothing else queued (p99), against the tick's interval",
            ratio=waits[len(waits) * 99 // 100] / service.settings.tick,
            most=1.0,
            seconds={"p50": waits[len(waits) // 2], "p99": waits[len(waits) * 99 // 100]},
        )
    )
    results.add(
        Measurement(
            name="queue-worker-memory",
            what=f"memory of a worker after {FEW + MANY:,} runs against before",
            ratio=max(b / a for a, b in zip(before, after, strict=True)),
            most=MEMORY,
            allocated={"before": max(before), "after": max(after)},
        )
    )


def print_wait(*measured: Measured) -> None:
    for one in measured:
        each = f"{one.each * 1000:.1f} ms of CPU a run"
        print(f"\n{one.count:,} runs: {one.seconds:.0f} s, {each}, p50 {one.wait(50):.1f} s")


def test_hosts_that_one_worker_serves(results: Results) -> None:
    costs = {hosts: short(hosts) for hosts in (20, HOSTS)}
    results.add(
        Measurement(
            name="queue-hosts-of-a-worker",
            what=f"CPU of the queue for a run, one worker: of {HOSTS} hosts against of 20",
            ratio=costs[HOSTS].each / costs[20].each,
            most=2.0,
            seconds={f"{hosts} hosts": one.each for hosts, one in costs.items()},
        )
    )


def test_the_embedded_default_against_postgresql(results: Results) -> None:
    costs = {kind: short(20, kind) for kind in ("sqlite", "postgresql")}
    speed = {kind: f"{one.count / one.seconds:.1f} a second" for kind, one in costs.items()}
    results.add(
        Measurement(
            name="queue-sqlite",
            what="one worker on SQLite against PostgreSQL: time for a run",
            ratio=costs["sqlite"].seconds / costs["postgresql"].seconds,
            seconds={kind: one.seconds / one.count for kind, one in costs.items()},
            note=f"runs: {speed}",
        )
    )


def short(hosts: int, kind: str = "postgresql") -> Measured:
    with fleet(hosts=hosts, kind=kind) as service:
        service.start_workers(1, SLOTS)
        service.start_beat()
        measured = service.measure(range(SHORT))
        service.check_nothing_lost_or_doubled(SHORT)
    return measured
