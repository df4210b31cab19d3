"""Redis and PostgreSQL go away and come back while runs are going on. On the simulated executor.

After each time every worker has to answer a task that goes the whole way: a worker that is deaf
since a reconnect looks alive. Several services at once, each with a Redis of its own: most of the
time is spent waiting for reconnects.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from chaos_cells import LEAST, Cells, dice
from chaos_judge import judge
from chaos_service import Service, service
from servers import Postgres, postgres, redis_server

SERVICES = 4
SLOTS = 4
AOF = "Redis restarted, with AOF"
NO_AOF = "Redis restarted, without AOF"
FLUSHED = "Redis flushed"
AWAY = "Redis away for seconds"
DATABASE = "PostgreSQL shut down at once"


def test_redis_goes_away_and_comes_back(postgres_server: Postgres, cells: Cells) -> None:
    def plague(number: int) -> list[str]:
        rnd = dice(f"redis {number}")
        with redis_server() as redis, service(postgres_server, redis, rnd) as running:
            running.start_worker("one", slots=SLOTS)
            running.start_beat()
            for cell, strike in _STRIKES.items():
                for _ in range(-(-LEAST // SERVICES)):
                    _until_busy(running)
                    time.sleep(rnd.uniform(0, 0.5))
                    met = running.held()
                    strike(running)
                    cells.tried(cell, min(met, 1))
                    running.prove_alive("one")
            return judge(running)

    with ThreadPoolExecutor(SERVICES) as pool:
        found = [text for texts in pool.map(plague, range(SERVICES)) for text in texts]
    cells.judged(_STRIKES, found)
    cells.prove(_STRIKES)


def _until_busy(running: Service) -> None:
    """Something runs, and something waits."""

    def busy() -> bool:
        running.feed(SLOTS + 3, "one", slow=running.rnd.random() < 0.5)
        return running.held() > 0

    running.wait_until(busy, "waiting for runs to begin")


def _restart_durable(running: Service) -> None:
    running.redis.durable = True
    running.redis.restart()


def _restart_empty(running: Service) -> None:
    running.redis.durable = False
    running.redis.restart()


def _flush(running: Service) -> None:
    running.redis.client().flushall()


def _away(running: Service) -> None:
    running.redis.restart(running.rnd.uniform(0.5, 4.0))


_STRIKES: dict[str, Callable[[Service], None]] = {
    AOF: _restart_durable,
    NO_AOF: _restart_empty,
    FLUSHED: _flush,
    AWAY: _away,
}


def test_the_database_is_shut_down_at_once(cells: Cells) -> None:
    """As in a power cut: what was committed is there, what was not is not."""
    rnd = dice(DATABASE)
    with (
        postgres() as server,
        redis_server() as redis,
        service(server, redis, rnd) as running,
    ):
        for _ in range(2):
            running.start_worker("one", slots=SLOTS * 2)
            running.start_beat()
        while cells.hits[DATABASE] < LEAST:
            running.feed(SLOTS * 3, "one", slow=False)
            running.wait_until(lambda: running.held() > 0, "waiting for runs to begin")
            time.sleep(rnd.uniform(0, 1.5))
            met = running.held()
            server.kill()
            time.sleep(rnd.choice((0.0, 0.0, rnd.uniform(0, 3.0))))
            server.start()
            cells.tried(DATABASE, min(met, 1))
        running.prove_alive("one")
        cells.judged([DATABASE], judge(running))
    cells.prove([DATABASE])
