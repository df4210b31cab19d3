"""A service that `sandbox up` runs, for tests: started, asked, looked at, gone in the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.core.deadline import Deadline
from sandbox.core.store import start_time
from tests.support.service.servers import short_folder
from workers.database import open_database
from workers.queue import reading
from workers.queue.values import RunRow

PATIENCE = 300.0
LONGEST_STATE = 48  # characters, as sandbox.core.settings has it
OURS = (sys.executable, "-P", "-m", "workers.cli")


def eventually(done: Callable[[], Any], what: str) -> Any:
    """What it is true of, once it is."""
    deadline = Deadline(PATIENCE, what)
    while not (found := done()):
        deadline.sleep(0.1)
    return found


def parents() -> dict[int, int]:
    """Each process' parent."""
    found = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (place / "stat").read_text(errors="replace")
                found[int(place.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def words(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    return []


@dataclass
class Service:
    """`sandbox up` in a state folder of its own."""

    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> Path:
        """As long as one may be: Redis' socket lives beneath it."""
        return self.folder / ("s" * (LONGEST_STATE - len(str(self.folder)) - 1))

    @property
    def simulated(self) -> Path:
        return self.folder / "simulated"

    def phases_take(self, seconds: float) -> None:
        """From the next start on."""
        executor = f"simulated:{self.simulated}?seconds={seconds}"
        self.environment["SANDBOX_SERVICE_EXECUTOR"] = executor

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        before = len(self.said("the service runs"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*OURS, "up", "--slots", "1"], stdout=log, stderr=log, env=self.environment
            )
        process = self.process
        eventually(
            lambda: process.poll() is not None or len(self.said("the service runs")) > before,
            "starting the service",
        )
        assert process.poll() is None, self.log.read_text()

    def sandbox(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*OURS, *argv], env=self.environment, capture_output=True, text=True, check=False
        )

    def submit(self, guest: str, *more: str) -> str:
        """The run's id."""
        key = self.folder / "key"
        key.touch()
        argv = ("submit", "security", "--guest", guest, "--key", str(key), "--json", *more)
        done = self.sandbox(*argv)
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout.splitlines()[0])["run_id"])

    def row(self, run_id: str) -> RunRow:
        """Read here: a process for each look would take longer than what is looked at."""
        database = open_database(f"sqlite:///{self.state}/service/truth.db")
        try:
            return reading.find(database, run_id)
        finally:
            database.close()

    def lines(self) -> list[dict[str, Any]]:
        """All that was said; each line has to be JSON."""
        text = self.log.read_text() if self.log.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def said(self, text: str, process: str = "up") -> list[dict[str, Any]]:
        return [one for one in self.lines() if one["process"] == process and text in one["event"]]

    def programs(self) -> dict[str, int]:
        """The pids of redis, worker, beat and api, and of the leashes that they are on."""
        assert self.process is not None
        above, found = parents(), {}
        for leash in (pid for pid, parent in above.items() if parent == self.process.pid):
            for pid in (pid for pid, parent in above.items() if parent == leash):
                argv = words(pid)
                name = next((n for n in ("worker", "beat", "api") if n in argv), "")
                if not name and argv and "redis-server" in argv[0]:
                    name = "redis"
                if name:
                    found |= {name: pid, f"leash of {name}": leash}
        return found

    def family(self) -> dict[int, str]:
        """All processes beneath `sandbox up`, with their start times."""
        assert self.process is not None
        above, family = parents(), {self.process.pid}
        while more := {pid for pid, parent in above.items() if parent in family} - family:
            family |= more
        started = {pid: start_time(pid) for pid in family}
        return {pid: when for pid, when in started.items() if when}  # some end as we look

    def end(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE)


def alive(family: dict[int, str]) -> list[str]:
    return [" ".join(words(p)) for p, started in family.items() if start_time(p) == started]


@contextlib.contextmanager
def service(**settings: str) -> Iterator[Service]:
    """Not started yet; what is left in the end is killed, by its pid."""
    with short_folder("sbup-") as folder:
        environment = {
            "PATH": os.environ["PATH"],
            "SANDBOX_SERVICE_API_LISTEN": "127.0.0.1:0",
            "SANDBOX_CACHE": str(folder / "cache"),
            **{f"SANDBOX_SERVICE_{name}": value for name, value in settings.items()},
        }
        one = Service(folder, environment)
        one.environment["SANDBOX_STATE"] = str(one.state)
        one.phases_take(0.05)
        try:
            yield one
        finally:
            if one.process is not None and one.process.poll() is None:
                family = one.family()
                for pid in (one.process.pid, *family):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                one.process.wait()
                eventually(lambda: not alive(family), "the end of what was killed")
