"""kill -9 at every stage of an attempt, many times: of the child, of the worker with all its
children, and of the worker's parent alone. On the simulated executor; PostgreSQL, Redis, the
workers and the beats are real."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from tests.support.faults.chaos_cells import LEAST, Cells, dice
from tests.support.faults.chaos_judge import judge
from tests.support.faults.chaos_plague import a_busy_worker, plague
from tests.support.faults.chaos_service import PHASE, Service, service
from tests.support.service.servers import Postgres, Redis
from workers.database.schema import attempts
from workers.worker.simulated_executor import STAGES

HOSTS = ("one", "two")
SLOTS = 24


@pytest.fixture
def running(
    postgres_server: Postgres, redis_of_chaos: Redis, request: pytest.FixtureRequest
) -> Iterator[Service]:
    """Two workers for the same hosts."""
    with service(postgres_server, redis_of_chaos, dice(request.node.name)) as made:
        for _ in range(2):
            made.start_worker(*HOSTS, slots=SLOTS)
        made.start_beat()
        yield made


def test_the_child_is_killed(running: Service, cells: Cells) -> None:
    names = {stage: f"kill -9 of the child: {stage}" for stage in STAGES}
    while needed := [stage for stage, name in names.items() if cells.tries[name] < LEAST]:
        running.feed(30, *HOSTS)
        running.tend()
        there = running.stages(_everyone(running))
        wanted = [at for at, (_pid, stage) in there.items() if stage in needed]
        if not wanted:
            time.sleep(0.05)
            continue
        for attempt in running.rnd.sample(wanted, min(6, len(wanted))):
            pid, _stage = there[attempt]
            time.sleep(running.rnd.uniform(0, PHASE))
            if not _hold(pid):
                continue
            stage = _held_in(running, attempt, pid)
            with contextlib.suppress(ProcessLookupError):  # it had just ended
                os.kill(pid, signal.SIGKILL)
            if stage:
                cells.tried(names[stage])
    _judge(running, cells, names.values())


def test_the_worker_is_killed_with_its_children(running: Service, cells: Cells) -> None:
    names = {stage: f"kill -9 of worker and children: {stage}" for stage in STAGES}
    while needed := [stage for stage, name in names.items() if cells.tries[name] < LEAST]:
        running.feed(40, *HOSTS)
        running.tend()
        victim = running.rnd.choice(running.workers)
        stages = [stage for _pid, stage in running.stages(victim.members()).values()]
        if sum(stage in needed for stage in stages) < SLOTS // 4:
            time.sleep(running.rnd.uniform(0, PHASE))
            continue
        time.sleep(running.rnd.uniform(0, PHASE))
        victim.send_all(signal.SIGSTOP)
        there = running.stages(victim.members())
        hit = [stage for at, (pid, _) in there.items() if (stage := _held_in(running, at, pid))]
        victim.kill_all()
        running.replace(victim)
        for stage in hit:
            cells.tried(names[stage])
    _judge(running, cells, names.values())


def test_the_parent_alone_is_killed(postgres_server: Postgres, cells: Cells) -> None:
    """Its children know nothing of it: what they do may be done to its end, and then they go."""

    def strike(running: Service) -> int:
        victim = a_busy_worker(running)
        victim.send(signal.SIGKILL)
        victim.wait()
        met = len(running.stages(victim.members()))
        running.replace(victim)
        running.wait_until(lambda: not victim.members(), "waiting for orphans to end")
        return met

    plague(postgres_server, cells, {"kill -9 of the worker's parent": strike})


def _judge(running: Service, cells: Cells, names: object) -> None:
    named = list(names)  # type: ignore[call-overload]
    cells.judged(named, judge(running))
    cells.prove(named)


def _everyone(running: Service) -> set[int]:
    return {pid for worker in running.workers for pid in worker.members()}


def _hold(pid: int) -> bool:
    """Stop a process, so that where it is stays true until it is killed."""
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:
        return False
    return True


def _held_in(running: Service, attempt: tuple[str, int], pid: int) -> str:
    """The stage in which a stopped process is at an attempt; "" when that is over."""
    run_id, fence = attempt
    there = running.stages({pid}).get(attempt)
    query = select(attempts.c.ended).where(attempts.c.run_id == run_id, attempts.c.fence == fence)
    with running.database.read() as connection:
        ended = connection.execute(query).scalar_one()
    return there[1] if there and ended is None else ""
