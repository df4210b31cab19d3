"""Everything else that happens to a queue: late workers, drains, double messages, cancels, full
disks, reapers, two beats. On the simulated executor."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from sandbox.core.errors import RequestError
from tests.support.faults.chaos_cells import LEAST, Cells, dice
from tests.support.faults.chaos_judge import judge
from tests.support.faults.chaos_plague import HOSTS, a_busy_worker, fill, plague
from tests.support.faults.chaos_service import LEASE, PHASE, Service, service
from tests.support.service.servers import Postgres, redis_server
from workers.database.schema import attempts, runs
from workers.database.states import HELD, RunState
from workers.queue import submission
from workers.queue.celery_app import announce, make_app
from workers.worker.tasks import send_reap

SLOTS = 12
DOUBLE = "a wake message, delivered 10 times"
CANCELLED = "cancelled: "  # and the state that it met
STOPPED = "worker stopped beyond its lease, then continued"
IN_TIME = "SIGTERM, with time to finish"
HANDED_BACK = "SIGTERM, without: handed back"
REAPED = "reaper beside a live run"
BEATS = "two beats, and a lost run"
FULL = "no room on the host's disk"


@pytest.fixture
def running(postgres_server: Postgres, request: pytest.FixtureRequest) -> Iterator[Service]:
    with (
        redis_server() as redis,
        service(postgres_server, redis, dice(request.node.name)) as made,
    ):
        for _ in range(2):
            made.start_worker(*HOSTS, slots=SLOTS)
        made.start_beat()
        yield made


def _judge(running: Service, cells: Cells, *names: str) -> None:
    cells.judged(names, judge(running))
    cells.prove(names)


def test_messages_are_doubled_and_a_reaper_is_about(running: Service, cells: Cells) -> None:
    with make_app(running.settings) as app:
        while cells.tries[DOUBLE] < LEAST or cells.tries[REAPED] < LEAST:
            running.feed(SLOTS, *HOSTS, slow=False)
            running.tend()
            for host in HOSTS:
                announce(app, host, 10)
                cells.tried(DOUBLE)
                send_reap(app, host)
                cells.tried(REAPED, running.held())
            running.wait_until(lambda: running.open_runs() < 2 * SLOTS, "waiting for runs to end")
    _judge(running, cells, DOUBLE, REAPED)


def test_runs_are_cancelled_at_any_moment(running: Service, cells: Cells) -> None:
    names = {state: f"{CANCELLED}{state.value}" for state in (RunState.QUEUED, RunState.RUNNING)}
    while needed := [s for s, name in names.items() if cells.tries[name] < LEAST]:
        running.feed(SLOTS * 2, *HOSTS)
        running.tend()
        state = running.rnd.choice(needed)
        with running.database.read() as connection:
            some = connection.execute(select(runs.c.id).where(runs.c.state == state)).scalars()
            found = sorted(some)
        for run_id in running.rnd.sample(found, min(3, len(found))):
            time.sleep(running.rnd.uniform(0, PHASE))
            with contextlib.suppress(RequestError):  # it has ended meanwhile
                running.cancelled.add(run_id)
                became = submission.cancel(running.database, run_id, "chaos")
                cells.tried(
                    names[RunState.QUEUED if became is RunState.CANCELLED else RunState.RUNNING]
                )
    _judge(running, cells, *names.values())


def test_a_worker_is_stopped_beyond_its_lease(postgres_server: Postgres, cells: Cells) -> None:
    def strike(running: Service) -> int:
        victim = a_busy_worker(running)
        victim.send_all(signal.SIGSTOP)
        held = set(running.stages(victim.members()))
        running.stopped |= {f"{run_id}-{fence}" for run_id, fence in held}
        time.sleep(LEASE * 1.2)
        running.wait_until(lambda: not _still_hold(running, held), "for the sweep")
        victim.send_all(signal.SIGCONT)
        return _lost(running, held)

    plague(postgres_server, cells, {STOPPED: strike})


def _still_hold(running: Service, held: set[tuple[str, int]]) -> bool:
    query = select(runs.c.id, runs.c.fence).where(runs.c.state.in_(HELD))
    with running.database.read() as connection:
        return any((row.id, row.fence) in held for row in connection.execute(query))


def _lost(running: Service, held: set[tuple[str, int]]) -> int:
    return sum(outcome in ("lose", "give-up") for outcome in _outcomes(running, held))


def _outcomes(running: Service, held: set[tuple[str, int]]) -> list[str]:
    with running.database.read() as connection:
        rows = connection.execute(
            select(attempts.c.run_id, attempts.c.fence, attempts.c.outcome)
        ).all()
    return [row.outcome for row in rows if (row.run_id, row.fence) in held]


@pytest.mark.parametrize(("drain", "cell"), [(60.0, IN_TIME), (0.2, HANDED_BACK)])
def test_a_worker_is_drained(
    postgres_server: Postgres, drain: float, cell: str, cells: Cells
) -> None:
    def strike(running: Service) -> int:
        victim = a_busy_worker(running)
        victim.send(signal.SIGTERM)
        held = set(running.stages(victim.members()))
        # Replaced, not only gone: the next victim is a living one.
        running.wait_until(lambda: victim not in running.workers, "the drain")
        assert all(": 0" in text for text in running.died), running.died
        return _ended_well(running, held, cell)

    plague(postgres_server, cells, {cell: strike}, drain=drain)


def _ended_well(running: Service, held: set[tuple[str, int]], cell: str) -> int:
    """How many of the attempts ended as they should; with time, all finish."""
    outcomes = _outcomes(running, held)
    handed = outcomes.count("hand-back")
    return handed if cell == HANDED_BACK else len(outcomes) - handed


def test_two_beats_and_the_reaper_lose_nothing(postgres_server: Postgres, cells: Cells) -> None:
    def strike(running: Service) -> int:
        if len(running.beats) < 2:
            running.start_beat()
        victim = a_busy_worker(running)
        held = set(running.stages(victim.members()))
        victim.kill_all()
        running.replace(victim)
        beat = running.rnd.choice(running.beats)
        beat.kill_all()
        running.replace(beat)
        running.wait_until(lambda: not _still_hold(running, held), "for the sweep")
        return _lost(running, held)

    plague(postgres_server, cells, {BEATS: strike})


def test_the_disk_is_full(running: Service, cells: Cells) -> None:
    """A small file system beneath the clones, filled up and emptied again."""
    place = running.executor.folder
    place.mkdir(exist_ok=True)
    argv = ["mount", "-t", "tmpfs", "-o", "size=1m", "sbchaos", str(place)]
    subprocess.run(argv, check=True)
    try:
        while cells.tries[FULL] < LEAST:
            running.feed(SLOTS, *HOSTS, slow=False)
            running.tend()
            before = _failed(running)
            fill(place / "ballast")
            running.wait_until(lambda n=before: _failed(running) > n, "for failed attempts")
            (place / "ballast").unlink()
            cells.tried(FULL, _failed(running) - before)
        _judge(running, cells, FULL)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _failed(running: Service) -> int:
    """Attempts that found no room."""
    query = select(func.count()).where(attempts.c.reason.contains("No space left"))
    with running.database.read() as connection:
        return int(connection.execute(query).scalar_one())
