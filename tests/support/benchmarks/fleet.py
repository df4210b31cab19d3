"""The service on a fleet of pretended hosts: real Redis, real PostgreSQL, real processes.

What a run costs is read from /proc: the CPU time of every process of the service, its ended
children's too, PostgreSQL's and Redis's own among them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from celery import Celery
from sqlalchemy import func, select

from sandbox.core.deadline import Deadline
from sandbox.core.records import Phase
from tests.support.service.servers import Redis, postgres, redis_server, short_folder
from workers.database import Database, migrate, open_database
from workers.database.schema import attempts, events, runs, verdicts
from workers.database.states import ENDED
from workers.queue.celery_app import announce, make_app
from workers.queue.presence import present
from workers.queue.submission import submit
from workers.queue.values import Claim, Order, Priority
from workers.settings import ServiceSettings, read_service_settings
from workers.worker.simulated_executor import SimulatedExecutor

PROGRAM = Path(sys.executable).with_name("sandbox")
PATIENCE = 120.0  # seconds without any progress
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Worker:
    """A worker's process, and the hosts that it serves."""

    process: subprocess.Popen[bytes]
    hosts: tuple[str, ...]

    def memory(self) -> int:
        """Bytes that the parent process has in memory; its children come and go."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) << 10


@dataclass(frozen=True)
class Measured:
    """What a number of runs cost, all processes of the service together."""

    count: int
    cpu: float  # seconds
    seconds: float
    waits: tuple[float, ...]  # from submit to start, sorted

    @property
    def each(self) -> float:
        """Seconds of CPU of the queue for one run: what the pretended rehearsal takes is not
        the queue's."""
        return self.cpu / self.count - empty_rehearsal()

    def wait(self, percent: int) -> float:
        return self.waits[min(self.count - 1, self.count * percent // 100)]


@cache
def empty_rehearsal(count: int = 200) -> float:
    """Seconds of CPU of a pretended rehearsal that takes no time, without any queue."""
    with short_folder("sbempty-") as folder:
        executor = SimulatedExecutor(folder, seconds=0.0)
        began = time.process_time()
        for number in range(count):
            claim = Claim(str(number), 1, "", 1, 1, "host", f"guest{number}", "security", {})
            executor.run(claim, lambda *_what: None, lambda _folder: None)
        return (time.process_time() - began) / count


@dataclass
class Fleet:
    """The service's processes, and the way to its truth."""

    folder: Path
    settings: ServiceSettings
    database: Database
    servers: tuple[subprocess.Popen[bytes], ...]
    hosts: tuple[str, ...]
    workers: list[Worker] = field(default_factory=list)
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)

    # -- processes ----------------------------------------------------------------------------

    def start_workers(self, count: int, slots: int) -> None:
        """Each serves its share of the hosts; all of them are up afterwards."""
        for number in range(count):
            hosts = self.hosts[number::count]
            named = [word for host in hosts for word in ("--host", host)]
            process = self._start("worker", *named, "--slots", str(slots))
            self.workers.append(Worker(process, hosts))
        deadline = Deadline(PATIENCE, "starting the workers")
        while len(present(self.database)) < len(self.workers):
            self._all_alive()
            deadline.sleep(0.1)

    def start_beat(self) -> None:
        self.others.append(self._start("beat"))

    def stop(self) -> None:
        started = [worker.process for worker in self.workers] + self.others
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        number = len(self.workers) + len(self.others)
        with (self.folder / f"log-{arguments[0]}-{number}").open("wb") as log:
            return subprocess.Popen(
                [str(PROGRAM), *arguments],
                stdout=log,
                stderr=log,
                env=_environment(self.folder, self.settings),
                start_new_session=True,
            )

    def _all_alive(self) -> None:
        for process in [worker.process for worker in self.workers] + self.others:
            assert process.poll() is None, self.logs()

    def logs(self) -> str:
        """The end of each process's log, for a failed test's message."""
        texts = (path.read_text()[-2000:] for path in sorted(self.folder.glob("log-*")))
        return "\n".join(texts)

    def cpu(self) -> float:
        """Seconds of CPU that the service's processes have used, servers and ended ones too."""
        roots = [worker.process for worker in self.workers] + self.others + list(self.servers)
        return cpu_of([process.pid for process in roots])

    # -- runs ---------------------------------------------------------------------------------

    def submit(
        self, numbers: range, hosts: Sequence[str], priority: Priority = Priority.NORMAL
    ) -> list[str]:
        """Queue a run of a guest of its own for each number, and wake; as several clients would."""
        with make_app(self.settings) as app, ThreadPoolExecutor(4) as pool:
            return list(
                pool.map(
                    lambda n: self.submit_one(app, n, hosts[n % len(hosts)], priority), numbers
                )
            )

    def submit_one(self, app: Celery, number: int, host: str, priority: int) -> str:
        order = Order("security", f"guest{number}", host, priority=priority)
        run_id = submit(self.database, order).run_id
        announce(app, host)
        return run_id

    def ended(self) -> int:
        query = select(func.count()).where(runs.c.state.in_(ENDED))
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def wait_for(self, count: int) -> None:
        """Until so many runs have ended; progress is what is waited for, not a time."""
        seen, deadline = -1, Deadline(PATIENCE, "waiting for a run to end")
        while (ended := self.ended()) < count:
            self._all_alive()
            if ended > seen:
                seen, deadline = ended, Deadline(PATIENCE, f"after {ended} of {count} runs")
            deadline.sleep(0.1)

    def waits(self, run_ids: Sequence[str]) -> list[float]:
        """Seconds from submit to the first attempt's start, by the database's clock; sorted."""
        first = (
            select(attempts.c.run_id, func.min(attempts.c.started).label("started"))
            .group_by(attempts.c.run_id)
            .subquery()
        )
        query = select(first.c.run_id, first.c.started - runs.c.submitted).join(
            runs, runs.c.id == first.c.run_id
        )
        wanted = set(run_ids)
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        return sorted(seconds for run_id, seconds in rows if run_id in wanted)

    def overtaken(self, run_id: str) -> int:
        """How many other runs were begun while this one waited."""
        mine = select(runs.c.submitted, runs.c.started).where(runs.c.id == run_id)
        with self.database.read() as connection:
            submitted, started = connection.execute(mine).one()
            between = attempts.c.started.between(submitted, started)
            query = select(func.count()).where(between, attempts.c.run_id != run_id)
            return int(connection.execute(query).scalar_one())

    def measure(self, numbers: range) -> Measured:
        """Queue a run for each number, and wait until all have ended."""
        ended, used, began = self.ended(), self.cpu(), time.monotonic()
        ids = self.submit(numbers, self.hosts)
        self.wait_for(ended + len(numbers))
        seconds, used = time.monotonic() - began, self.cpu() - used
        return Measured(len(numbers), used, seconds, tuple(self.waits(ids)))

    def check_nothing_lost_or_doubled(self, count: int) -> None:
        """Every run has one attempt, one verdict, and went through each phase once."""
        with self.database.read() as connection:
            counted = select(runs.c.verdict, func.count()).group_by(runs.c.verdict)
            states = {row[0]: row[1] for row in connection.execute(counted)}
            tables = [
                connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in (attempts, verdicts)
            ]
            phases = (
                select(events.c.run_id, events.c.text, func.count().label("times"))
                .where(events.c.kind == "phase")
                .group_by(events.c.run_id, events.c.text)
                .subquery()
            )
            told, most = connection.execute(
                select(func.count(), func.max(phases.c.times)).select_from(phases)
            ).one()
        assert states == {"pass": count}, self.logs()
        assert tables == [count, count], "attempts, verdicts"
        assert (told, most) == (count * len(Phase), 1), "a run was done twice, or not wholly"
        pretended = SimulatedExecutor.from_text(self.settings.executor)
        assert not pretended.clones(), "something is left"
        assert not (pretended.folder / "violations").exists(), "a guest was rehearsed twice at once"


@contextlib.contextmanager
def fleet(
    hosts: int, *, seconds: float = 0.0, parallel: int = 2, kind: str = "postgresql"
) -> Iterator[Fleet]:
    """Servers, an inventory and an empty database; processes are started by whoever measures."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(short_folder("sbfleet-"))
        redis = stack.enter_context(redis_server())
        assert redis.process is not None
        servers = [redis.process]
        if kind == "postgresql":
            server = stack.enter_context(postgres())
            assert server.process is not None
            servers.append(server.process)
            url = server.new_database()
        else:
            url = f"sqlite:///{folder}/truth.db"
        names = tuple(f"host{number:03}" for number in range(hosts))
        write_inventory(folder / "hosts.yaml", names, parallel)
        settings = _settings(folder, redis, url, seconds)
        database = open_database(url)
        stack.callback(database.close)
        migrate(database)
        made = Fleet(folder, settings, database, tuple(servers), names)
        stack.callback(made.stop)
        yield made


def write_inventory(path: Path, names: Sequence[str], parallel: int) -> None:
    entries = (
        f"  - name: {name}\n    uri: xen+ssh://root@{name}.example.org/system\n"
        f"    parallel: {parallel}\n"
        for name in names
    )
    path.write_text("hosts:\n" + "".join(entries))


def _settings(folder: Path, redis: Redis, url: str, seconds: float) -> ServiceSettings:
    return read_service_settings(
        {
            "SANDBOX_STATE": str(folder / "state"),
            "SANDBOX_HOSTS": str(folder / "hosts.yaml"),
            "SANDBOX_SERVICE_DATABASE": url,
            "SANDBOX_SERVICE_BROKER": redis.url,
            "SANDBOX_SERVICE_EXECUTOR": f"simulated:{folder}/pretended?seconds={seconds}",
            "SANDBOX_SERVICE_DRAIN": "5",
        }
    )


def _environment(folder: Path, settings: ServiceSettings) -> dict[str, str]:
    ours = {
        "SANDBOX_STATE": str(settings.sandbox.state),
        "SANDBOX_HOSTS": str(folder / "hosts.yaml"),
        "SANDBOX_SERVICE_DATABASE": settings.database,
        "SANDBOX_SERVICE_BROKER": settings.broker,
        "SANDBOX_SERVICE_EXECUTOR": settings.executor,
        "SANDBOX_SERVICE_DRAIN": str(settings.drain),
    }
    kept = {n: v for n, v in os.environ.items() if not n.startswith("SANDBOX_")}
    return kept | ours


def cpu_of(pids: Sequence[int]) -> float:
    """Seconds of CPU, user and system, of processes, their living children and the ended ones
    that were waited for."""
    parents, used = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(fields[1])
            used[int(entry.name)] = sum(map(int, fields[11:15])) / CLOCK_TICKS
    mine = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(used.get(pid, 0.0) for pid in mine)
