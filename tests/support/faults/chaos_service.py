"""A whole service for the chaos suite: real servers, `sandbox worker` and `sandbox beat` processes.

What dies is started again, as systemd would; nothing else is repaired.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import func, select, update

from sandbox.core.deadline import Deadline
from sandbox.core.errors import SandboxError
from sandbox.core.records import Verdict
from sandbox.core.settings import Settings
from tests.support.machine.forked import SANDBOX, Forked
from tests.support.service.servers import Postgres, Redis, short_folder
from workers.database import Database, migrate, open_database
from workers.database.schema import runs
from workers.database.states import HELD, OPEN, RunState
from workers.monitoring import canary
from workers.queue import submission
from workers.queue.celery_app import make_app
from workers.queue.intake import wake
from workers.queue.values import Order
from workers.settings import ServiceSettings
from workers.worker.simulated_executor import STAGES, SimulatedExecutor

_migrating = threading.Lock()  # alembic keeps its state in a module
PATIENCE = 180.0  # seconds for anything that has to happen in the end; a busy machine
LEASE, TICK = 8.0, 2.0
PHASE, AROUND = 0.15, 0.2
MANY = 100  # attempts: the truth comes out in the end, however often it is killed


class Process:
    """One of the service's processes with its children: a process group of their own."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        log: Path,
        entry: str = SANDBOX,
    ) -> None:
        self.arguments = tuple(arguments)
        with log.open("ab") as file:
            self._process = Forked(arguments, environment=environment, output=file, entry=entry)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def members(self) -> set[int]:
        """All living processes of the group."""
        found = set()
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                said = Path("/proc", name, "stat").read_text(errors="replace")
                fields = said.rpartition(")")[2].split()
                if int(fields[2]) == self.pid and fields[0] not in "ZX":
                    found.add(int(name))
        return found

    def send(self, number: int) -> None:
        """To the parent alone, as systemd and containers do."""
        self._process.send_signal(number)

    def send_all(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, seconds: float = PATIENCE) -> int:
        return self._process.wait(seconds)

    def kill_all(self) -> None:
        self.send_all(signal.SIGKILL)
        self._process.wait()
        deadline = Deadline(PATIENCE, "waiting for killed processes to end")
        while self.members():
            deadline.sleep(0.02)


@dataclass
class Service:
    """Workers and beats on given servers, and what the test knows of the runs."""

    folder: Path
    postgres: Postgres
    redis: Redis
    settings: ServiceSettings
    database: Database
    environment: dict[str, str]
    rnd: random.Random
    workers: list[Process] = field(default_factory=list)
    beats: list[Process] = field(default_factory=list)
    gone: list[Process] = field(default_factory=list)  # killed, or ended
    truths: dict[str, Verdict] = field(default_factory=dict)  # of every run that was submitted
    cancelled: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)  # attempts whose process was held by SIGSTOP
    died: list[str] = field(default_factory=list)  # processes that ended without being told
    _guests: int = 0

    # -- processes ----------------------------------------------------------------------------

    def start_worker(self, *hosts: str, slots: int = 16) -> Process:
        named = [word for host in hosts for word in ("--host", host)]
        return self._start(self.workers, ["worker", *named, "--slots", str(slots)])

    def start_beat(self) -> Process:
        return self._start(self.beats, ["beat"])

    def _start(self, among: list[Process], arguments: Sequence[str]) -> Process:
        log = self.folder / f"{arguments[0]}.log"
        among.append(Process(arguments, self.environment, log))
        return among[-1]

    def replace(self, process: Process) -> Process:
        """Another one in the place of one that has ended."""
        among = self.workers if process in self.workers else self.beats
        among.remove(process)
        self.gone.append(process)
        return self._start(among, process.arguments)

    def tend(self) -> None:
        """As systemd would, and a person who says that a run need not wait for its pause."""
        for process in [*self.workers, *self.beats]:
            if not process.alive:
                self.died.append(f"{process.arguments[0]} {process.pid}: {process.wait()}")
                self.replace(process)
        with contextlib.suppress(SandboxError), self.database.write() as connection:
            connection.execute(
                update(runs).where(runs.c.state == RunState.QUEUED).values(not_before=0.0)
            )

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = Deadline(PATIENCE, what)
        while True:
            with contextlib.suppress(SandboxError):
                if holds():
                    return
            assert not deadline.expired(), f"{what}\n{self.logs()}"
            self.tend()
            time.sleep(0.1)

    def logs(self) -> str:
        """The last lines, for the message of a failed test."""
        said = []
        for path in sorted(self.folder.glob("*.log")):
            said += [f"-- {path.name}", *path.read_text(errors="replace").splitlines()[-30:]]
        return "\n".join(said)

    def end(self) -> list[str]:
        """End all processes; what would not end, or was left."""
        for process in [*self.workers, *self.beats]:
            process.send_all(signal.SIGCONT)
            process.send(signal.SIGTERM)
        wrong = []
        for process in [*self.workers, *self.beats]:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                wrong.append(f"{process.arguments[0]} {process.pid} does not end on SIGTERM")
        everyone = [*self.workers, *self.beats, *self.gone]
        deadline = Deadline(60, "waiting for children to end")
        while any(p.members() for p in everyone) and not deadline.expired():
            time.sleep(0.1)
        for process in everyone:
            if left := process.members():
                wrong.append(f"{process.arguments[0]} {process.pid} left {len(left)} processes")
                process.send_all(signal.SIGKILL)
                if process in self.workers:
                    process.wait()
        self.database.close()
        return wrong

    # -- runs ---------------------------------------------------------------------------------

    def submit(self, host: str, ending: str = "", *, slow: bool = True, guest: str = "") -> str:
        """Queue a run; what its verdict has to be is in the guest's name."""
        if not guest:
            self._guests = (self._guests + 1) % 150
            ending = ending or self.rnd.choice(("", "", "", "-fail", "-fail", "-flaky", "-error"))
            guest = f"{'slow-' if slow else ''}guest{self._guests}{ending}"
        attempts = 2 if guest.endswith("-error") else MANY
        order = Order("chaos", guest, host, fresh=True, most_attempts=attempts)
        run_id = submission.submit(self.database, order).run_id
        self.truths[run_id] = truth_of(guest)
        return run_id

    def feed(self, most: int, *hosts: str, slow: bool = True) -> None:
        """See to it that so many runs are open on each host."""
        for host in hosts:
            new = most - self.open_runs(host)
            for _ in range(new):
                self.submit(host, slow=slow)
            if new > 0:
                self.wake(host)

    def wake(self, host: str) -> None:
        wake(self.settings, host, print)

    def open_runs(self, host: str | None = None) -> int:
        query = select(func.count()).where(runs.c.state.in_((*OPEN, *HELD)))
        if host is not None:
            query = query.where(runs.c.host == host)
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def held(self, *owners: str) -> int:
        """How many runs are being worked on, by anybody or by these."""
        query = select(func.count()).where(runs.c.state.in_(HELD))
        if owners:
            query = query.where(runs.c.owner.in_(owners))
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def settle(self) -> None:
        """Until every run has ended."""
        self.wait_until(lambda: not self.open_runs(), "waiting for the last runs to end")

    def prove_alive(self, host: str) -> None:
        """A task goes the whole way; a lost one is sent again, as the tick would."""
        deadline = Deadline(PATIENCE, f"waiting for a canary of {host}")
        while True:
            with contextlib.suppress(Exception):  # the broker may still be away
                with make_app(self.settings) as app:
                    sent = canary.send(app, self.database, host)
                if canary.wait_for(self.database, sent, 2.0) is not None:
                    return
            assert not deadline.expired(), f"the worker of {host} is deaf\n{self.logs()}"
            self.tend()

    # -- who is where -------------------------------------------------------------------------

    @property
    def executor(self) -> SimulatedExecutor:
        return SimulatedExecutor.from_text(self.settings.executor)

    def stages(self, pids: set[int]) -> dict[tuple[str, int], tuple[int, str]]:
        """(run, fence) -> (pid, stage) of the attempts that these processes are at."""
        found = {}
        for path in (self.executor.folder / "at").glob("*"):
            try:
                pid, _, stage = path.read_text().partition(" ")
            except FileNotFoundError:  # its attempt has just ended
                continue
            if stage in STAGES and int(pid) in pids:
                run_id, _, fence = path.name.rpartition("-")
                found[run_id, int(fence)] = (int(pid), stage)
            elif pid and not Path(f"/proc/{pid}").exists():
                path.unlink(missing_ok=True)
        return found


def truth_of(guest: str) -> Verdict:
    ending = guest.rpartition("-")[2]
    return {"fail": Verdict.FAIL, "error": Verdict.ERROR}.get(ending, Verdict.PASS)


@contextlib.contextmanager
def service(
    postgres: Postgres,
    redis: Redis,
    rnd: random.Random,
    *,
    drain: float = 60.0,
    lease: float = LEASE,
) -> Iterator[Service]:
    """A service without processes yet; in the end none of them is left."""
    with short_folder("sbchaos-") as folder:
        (folder / "hosts.yaml").write_text(_hosts())
        url = postgres.new_database()
        executor = f"simulated:{folder}/host?seconds={PHASE}&around={AROUND}"
        given = {
            "DATABASE": url,
            "BROKER": redis.url,
            "LEASE": str(lease),
            "TICK": str(TICK),
            "DRAIN": str(drain),
            "EXECUTOR": executor,
        }
        environment = {n: v for n, v in os.environ.items() if not n.startswith("SANDBOX_")} | {
            "SANDBOX_STATE": f"{folder}/state",
            "SANDBOX_URI": "qemu:///system",
            "SANDBOX_HOSTS": f"{folder}/hosts.yaml",
            **{f"SANDBOX_SERVICE_{name}": value for name, value in given.items()},
        }
        settings = ServiceSettings(
            url, redis.url, Settings(folder / "state"), lease=lease, executor=executor
        )
        database = open_database(url)
        with _migrating:
            migrate(database)
        made = Service(folder, postgres, redis, settings, database, environment, rnd)
        try:
            yield made
        finally:
            left = made.end()
        assert not left, left


def _hosts() -> str:
    """Hosts that take whatever the workers have slots for."""
    lines = [
        f"  - {{name: {name}, uri: 'xen+ssh://root@{name}.example.org/system', parallel: 1000}}"
        for name in ("one", "two", "three")
    ]
    return "\n".join(["hosts:", *lines, ""])
