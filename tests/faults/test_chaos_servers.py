"""Redis and PostgreSQL go away and come back while runs are going on. On the simulated executor.

After each time every worker has to answer a task that goes the whole way: a worker that is deaf
since a reconnect looks alive.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from redis.exceptions import ResponseError

from tests.support.faults.chaos_cells import LEAST, Cells, dice
from tests.support.faults.chaos_judge import judge
from tests.support.faults.chaos_plague import HOSTS, SLOTS, Strike, fill, plague
from tests.support.faults.chaos_service import LEASE, Service, service
from tests.support.service.servers import Postgres, postgres, redis_server

AOF = "Redis restarted, with AOF"
NO_AOF = "Redis restarted, without AOF"
FLUSHED = "Redis flushed"
AWAY = "Redis away for seconds"
FULL = "Redis with a full disk"
DATABASE = "PostgreSQL shut down at once"
HANGS = "PostgreSQL hangs, some times beyond a lease"


def test_redis_goes_away_and_comes_back(postgres_server: Postgres, cells: Cells) -> None:
    def restart_durable(running: Service) -> None:
        running.redis.durable = True
        running.redis.restart()

    def restart_empty(running: Service) -> None:
        running.redis.durable = False
        running.redis.restart()

    def flush(running: Service) -> None:
        running.redis.client().flushall()

    def away(running: Service) -> None:
        running.redis.restart(running.rnd.uniform(0.5, 4.0))

    does = {AOF: restart_durable, NO_AOF: restart_empty, FLUSHED: flush, AWAY: away}
    strikes = {cell: _while_busy(strike) for cell, strike in does.items()}
    plague(postgres_server, cells, strikes, workers=1)


def test_redis_has_no_room_for_its_log(postgres_server: Postgres, cells: Cells) -> None:
    """It answers, and refuses to be told anything."""

    def strike(running: Service) -> None:
        ballast = running.redis.folder / "ballast"
        fill(ballast)
        running.wait_until(lambda: _refuses(running), "waiting for Redis to refuse")
        time.sleep(running.rnd.uniform(0, 3.0))
        ballast.unlink()

    strikes = {FULL: _while_busy(strike)}
    plague(postgres_server, cells, strikes, workers=1, redis_size="4m")


def _refuses(running: Service) -> bool:
    try:
        running.redis.client().set("chaos", "0123456789" * 100)
    except ResponseError as problem:
        return "MISCONF" in str(problem)
    return False


def _while_busy(strike: Callable[[Service], None]) -> Strike:
    """Something runs, and something waits; afterwards the worker lives, and is not deaf."""

    def struck(running: Service) -> int:
        def busy() -> bool:
            running.feed(SLOTS + 3, *HOSTS, slow=running.rnd.random() < 0.5)
            return running.held() > 0

        running.wait_until(busy, "waiting for runs to begin")
        time.sleep(running.rnd.uniform(0, 0.5))
        met = running.held()
        strike(running)
        for host in HOSTS:
            running.prove_alive(host)
        assert not running.died, running.died
        return met

    return struck


@pytest.mark.parametrize("cell", [DATABASE, HANGS])
def test_the_database_is_away(cell: str, cells: Cells) -> None:
    """Shut down as in a power cut: what was committed is there, what was not is not. Or it hangs:
    its connections are open, and nobody answers."""
    rnd = dice(cell)
    with (
        postgres() as server,
        redis_server() as redis,
        service(server, redis, rnd) as running,
    ):
        for _ in range(2):
            running.start_worker("one", slots=SLOTS * 2)
            running.start_beat()
        while cells.tries[cell] < LEAST:
            running.wait_until(lambda: _fed(running), "waiting for runs to begin")
            time.sleep(rnd.uniform(0, 1.5))
            met = running.held()
            if cell == HANGS:
                server.hang(rnd.choice((0.5, rnd.uniform(0, 4.0), LEASE * 1.2)))
            else:
                server.kill()
                time.sleep(rnd.choice((0.0, 0.0, rnd.uniform(0, 3.0))))
                server.start()
            cells.tried(cell, met)
        running.prove_alive("one")
        assert not running.died, running.died
        cells.judged([cell], judge(running))
    cells.prove([cell])


def _fed(running: Service) -> bool:
    """The test's own connections of before are broken, too: it asks again."""
    running.feed(SLOTS * 3, "one", slow=False)
    return running.held() > 0
