"""The queue under load, small enough for every commit: nothing is lost or doubled, nobody starves.

The full size is in test_service_fleet.py.
"""

from __future__ import annotations

import pytest

from sandbox.core.deadline import Deadline
from tests.support.benchmarks.fleet import Fleet, fleet
from tests.support.benchmarks.table import Measurement, Results
from workers.database.states import ENDED
from workers.queue import reading
from workers.queue.celery_app import make_app
from workers.queue.values import Priority

pytestmark = pytest.mark.benchmark

FEW, MANY = 200, 600
ALONE = 20
CROWD = 1000
STEP = 0.02  # seconds of a phase, where runs have to last
A_FEW = 6  # twice what two slots begin in the time of one run, and two


def test_nothing_is_lost_and_a_run_among_many_costs_no_more(results: Results) -> None:
    with fleet(hosts=40) as service:
        service.start_workers(2, slots=2)
        service.start_beat()
        few = service.measure(range(FEW))
        many = service.measure(range(FEW, FEW + MANY))
        service.check_nothing_lost_or_doubled(FEW + MANY)
        waits = wait_alone(service, ALONE)
    results.add(
        Measurement(
            name="queue-linear-small",
            what=f"CPU of the queue for a run: among {MANY} against among {FEW}",
            ratio=many.each / few.each,
            most=2.0,  # were it quadratic, it would be 3
            seconds={f"among {FEW}": few.each, f"among {MANY}": many.each},
            note=f"{MANY / many.seconds:.0f} runs a second",
        )
    )
    results.add(
        Measurement(
            name="queue-idle-wait-small",
            what="from submit to start with nothing else queued, against the tick's interval",
            ratio=waits[len(waits) // 2] / service.settings.tick,
            most=0.5,  # a message woke the worker
            seconds={"half": waits[len(waits) // 2], "longest": waits[-1]},
        )
    )


def wait_alone(service: Fleet, times: int) -> list[float]:
    """Seconds from submit to start, of one run after the other; sorted."""
    ids: list[str] = []
    with make_app(service.settings) as app:
        for number in range(times):
            ended = service.ended()
            host = service.hosts[number % len(service.hosts)]
            ids.append(service.submit_one(app, 10**6 + number, host, Priority.NORMAL))
            service.wait_for(ended + 1)
    return service.waits(ids)


def test_a_gate_is_next_whatever_the_night_has_queued() -> None:
    """On the same host, and on another one of the same worker."""
    with fleet(hosts=2, seconds=STEP) as service:
        crowded, other = service.hosts
        service.submit(range(CROWD), [crowded], Priority.NIGHTLY)
        service.submit(range(CROWD, CROWD + 50), [other], Priority.NIGHTLY)
        service.start_workers(1, slots=2)
        service.wait_for(3)
        for number, host in enumerate((crowded, other)):
            assert overtakers(service, 2 * CROWD + number, host, Priority.GATE) <= A_FEW


def test_a_host_with_a_thousand_runs_does_not_delay_anothers_single_one() -> None:
    with fleet(hosts=2, seconds=STEP) as service:
        crowded, other = service.hosts
        service.submit(range(CROWD), [crowded])
        service.start_workers(1, slots=1)
        service.wait_for(3)
        assert overtakers(service, CROWD, other, Priority.NORMAL) <= A_FEW


def overtakers(service: Fleet, number: int, host: str, priority: Priority) -> int:
    """Queue one more run; how many others were begun before it."""
    with make_app(service.settings) as app:
        run_id = service.submit_one(app, number, host, priority)
    deadline = Deadline(120, "waiting for the single run")
    while reading.get(service.database, run_id).state not in ENDED:
        deadline.sleep(0.05)
    assert service.ended() < CROWD, "the crowd was gone: nothing was shown"
    return service.overtaken(run_id)
