"""Several services at once, each with a Redis of its own: most of a fault's time is waiting for
leases and reconnects."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.faults.chaos_cells import LEAST, Cells, dice
from tests.support.faults.chaos_judge import judge
from tests.support.faults.chaos_service import PHASE, Process, Service, service
from tests.support.service.servers import Postgres, redis_server

SERVICES = 4
SHARE = -(-LEAST // SERVICES)  # tries in each
HOSTS = ("one", "two")
SLOTS = 4
Strike = Callable[[Service], int]  # how many attempts or runs it met


def plague(
    postgres: Postgres,
    cells: Cells,
    strikes: Mapping[str, Strike],
    *,
    workers: int = 2,
    drain: float = 60.0,
    redis_size: str = "",
) -> None:
    """Every fault again and again in every service; then all of them are judged."""

    def one(number: int) -> list[str]:
        rnd = dice(f"{next(iter(strikes))} {number}")
        with (
            redis_server(size=redis_size) as redis,
            service(postgres, redis, rnd, drain=drain) as running,
        ):
            for _ in range(workers):
                running.start_worker(*HOSTS, slots=SLOTS)
            running.start_beat()
            for cell, strike in strikes.items():
                _strike(running, cells, cell, strike)
            return judge(running)

    with ThreadPoolExecutor(SERVICES) as pool:
        found = [text for texts in pool.map(one, range(SERVICES)) for text in texts]
    cells.judged(strikes, found)
    cells.prove(strikes)


def _strike(running: Service, cells: Cells, cell: str, strike: Strike) -> None:
    done = 0
    while done < SHARE:
        if met := strike(running):
            cells.tried(cell, met)
            done += 1


def a_busy_worker(running: Service, least: int = SLOTS // 2) -> Process:
    """One that is at so many attempts, at a moment that chance picks."""
    victim = running.rnd.choice(running.workers)

    def holds() -> bool:
        running.feed(SLOTS * 2, *HOSTS)
        return len(running.stages(victim.members())) >= least

    running.wait_until(holds, "waiting for a worker to be busy")
    time.sleep(running.rnd.uniform(0, 5 * PHASE))  # slow guests' phases are so long
    return victim


def fill(path: Path) -> None:
    """Take all the room that there is on a file system."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
