"""The service on a hypervisor host: PostgreSQL, Redis, `sandbox worker` and `sandbox beat`, and
rehearsals of a real guest. People's commands are the only way in."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, select, update

from sandbox.core.errors import SandboxError
from sandbox.core.records import Phase, Verdict
from sandbox.core.store import Store
from sandbox.demo.guest import Production
from tests.support.faults.chaos_service import Process
from tests.support.faults.commands import PATIENCE, Command
from tests.support.guests import leftovers
from tests.support.guests.guests import PRODUCTION, Lab
from tests.support.guests.resuming import environment
from tests.support.guests.sources import alive, uptime
from tests.support.machine import forked
from tests.support.machine.forked import RESUMING
from tests.support.service.servers import Postgres, Redis
from tests.support.waiting import wait_until
from workers.database import Database, migrate, open_database
from workers.database.schema import attempts, runs, verdicts
from workers.database.states import ENDED, RunState
from workers.queue import reading
from workers.queue.values import RunRow

LEASE, TICK = 15.0, 1.0
WINDOW = 5.0  # seconds: how long after a phase's beginning a fault may come
SCENARIO = """
upgrade: {what: script, script: upgrade.sh}
reboot: never
checks: {shared: [boot]}
"""
CHECKS = """
def test_the_web_server_runs(host):
    assert host.service("nginx").is_running

def test_has_its_name(host):
    assert host.check_output("hostname") == "web01"
"""
SCRIPT = "#!/bin/sh\nsleep {seconds}\necho new >/etc/changed-in-the-clone\n"
ENDLESS = 3600


@dataclass
class Service:
    """Its processes, and what a person and the tables say of its runs."""

    lab: Lab
    folder: Path
    environment: dict[str, str]
    database: Database
    scenario: Path
    saved: Path
    processes: list[Process] = field(default_factory=list)
    _commands: list[Command] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.lab.settings.state

    # -- processes ----------------------------------------------------------------------------

    def start_worker(self, *, drain: float = PATIENCE) -> Process:
        return self._start("worker", SANDBOX_SERVICE_DRAIN=str(drain))

    def start_beat(self) -> Process:
        return self._start("beat")

    def _start(self, kind: str, **more: str) -> Process:
        """Its clones of the image go on from a saved boot; those of the running guest boot."""
        log = self.folder / f"{kind}{len(self.processes)}.log"
        resumed = environment(self.saved, self.lab.image.path)
        told = self.environment | resumed | more
        self.processes.append(Process([kind], told, log, RESUMING))
        return self.processes[-1]

    def kill_with_children(self, process: Process) -> None:
        """kill -9, also of those that are in groups of their own: nobody is left to clean up."""
        for pid in (process.pid, *_descendants(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        self.processes.remove(process)

    def drain(self, process: Process) -> None:
        """As systemd stops it."""
        process.send(signal.SIGTERM)
        assert process.wait() == 0, self.logs()
        assert not process.members()
        self.processes.remove(process)

    def end(self) -> list[str]:
        """End all processes; what would not end, had ended, or was left."""
        wrong = []
        for command in self._commands:
            command.end()
        for process in self.processes:
            if not process.alive:
                wrong.append(f"{process.arguments} {process.pid} has died: {process.wait()}")
                continue
            process.send(signal.SIGTERM)
            try:
                process.wait(30)  # a failed test may have left it a run
            except subprocess.TimeoutExpired:
                process.send(signal.SIGTERM)  # without patience
                wrong.append(f"{process.arguments} {process.pid} had something to do")
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait()
            if left := process.members():
                wrong.append(f"{process.arguments} {process.pid} left {len(left)} processes")
                process.kill_all()
        self.database.close()
        return wrong

    # -- what a person does -------------------------------------------------------------------

    def command(self, *arguments: object) -> Command:
        output = self.folder / f"output{len(self._commands)}"
        self._commands.append(Command(arguments, self.environment, output))
        return self._commands[-1]

    def submit(self, *, running: bool = False) -> str:
        """A rehearsal of the image, or of the running guest."""
        image = ("--image", self.lab.image.path, "--format", "qcow2")
        source = ("--guest", PRODUCTION) if running else image
        request = (*source, "--key", self.lab.image.key)
        said = self.command("submit", self.scenario, *request, "--json").succeed()
        *_hints, told = said.splitlines()  # there may be no worker yet, it says
        run_id = str(json.loads(told)["run_id"])
        # Another script for the next attempt would be another scenario: here it may be.
        asked = {name: text for name, text in self.row(run_id).request.items() if name != "content"}
        with self.database.write() as connection:
            connection.execute(update(runs).where(runs.c.id == run_id).values(request=asked))
        return run_id

    def upgrade_takes(self, seconds: int) -> None:
        """From the next attempt on."""
        (self.scenario / "upgrade.sh").write_text(SCRIPT.format(seconds=seconds))

    # -- what becomes of a run ----------------------------------------------------------------

    def row(self, run_id: str) -> RunRow:
        return reading.get(self.database, run_id)

    def attempts(self, run_id: str) -> list[Any]:
        return self._rows(attempts, run_id)

    def outcomes(self, run_id: str) -> list[str]:
        return [str(attempt.outcome) for attempt in self.attempts(run_id)]

    def verdicts(self, run_id: str) -> list[Any]:
        return self._rows(verdicts, run_id)

    def _rows(self, table: Table, run_id: str) -> list[Any]:
        with self.database.read() as connection:
            query = select(table).where(table.c.run_id == run_id).order_by(table.c.fence)
            return list(connection.execute(query))

    def holder(self, run_id: str) -> int:
        """The process that is at the run's newest attempt: a worker's child."""
        folder = Store(self.lab.settings).folder(self.attempts(run_id)[-1].folder)
        return int(folder.facts()["owner"].partition(":")[0])

    def wait_for_moment(
        self, run_id: str, phase: Phase, dice: random.Random, window: float = WINDOW
    ) -> None:
        """Until some moment in the phase."""
        self._wait(lambda: self.is_in(phase, run_id), f"{phase} to begin")
        time.sleep(dice.uniform(0, window))

    def is_in(self, phase: Phase, run_id: str) -> bool:
        row = self.row(run_id)
        return (row.state, row.phase) == (RunState.RUNNING, phase)

    def wait_for_end(self, run_id: str) -> RunRow:
        self._wait(lambda: self.row(run_id).state in ENDED, f"the end of {run_id}")
        return self.row(run_id)

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        def holds_or_hurry() -> bool:
            if holds():
                return True
            with contextlib.suppress(SandboxError), self.database.write() as connection:
                # As a person might say: a run that ended in an error need not pause.
                queued = update(runs).where(runs.c.state == RunState.QUEUED)
                connection.execute(queued.values(not_before=0.0))
            return False

        wait_until(holds_or_hurry, what, seconds=PATIENCE, every=0.1, explain=self.logs)

    def logs(self) -> str:
        """For the message of a failed test."""
        said = []
        for path in sorted(self.folder.glob("*.log")):
            said += [f"-- {path.name}", *path.read_text(errors="replace").splitlines()[-30:]]
        return "\n".join(said)


def _descendants(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for child in map(int, path.read_text().split()):
                yield from (*_descendants(child), child)


def expect_pass(service: Service, run_id: str, outcomes: list[str]) -> RunRow:
    """Its attempts ended so, the last one alone decided, and nothing is left of any of them."""
    row = service.wait_for_end(run_id)
    assert service.outcomes(run_id) == outcomes, service.logs()
    assert (row.state, row.verdict) == (RunState.FINISHED, Verdict.PASS), row.reason
    *lost, last = service.attempts(run_id)
    (verdict,) = service.verdicts(run_id)
    assert (verdict.fence, verdict.verdict) == (last.fence, Verdict.PASS)
    records = {one["id"]: one for one in service.command("list", "--json").records()}
    assert records.keys() == {attempt.folder for attempt in (*lost, last)}
    assert {one["state"] for one in records.values()} == {"finished"}
    assert [records[attempt.folder]["verdict"] for attempt in lost] == [Verdict.ERROR] * len(lost)
    assert leftovers.count(service.state) == {}
    return row


@contextlib.contextmanager
def _service(
    lab: Lab, saved: Path, postgres: Postgres, redis: Redis, folder: Path
) -> Iterator[Service]:
    """A service without processes yet; in the end none of them is left."""
    url, settings = postgres.new_database(), lab.settings
    variables = {n: v for n, v in os.environ.items() if not n.startswith("SANDBOX_")} | {
        "SANDBOX_STATE": str(settings.state),
        "SANDBOX_CONTROL": settings.control,
        "SANDBOX_WATCH": "0",
        "SANDBOX_CACHE": str(settings.cache),
        "SANDBOX_URI": "qemu:///system",
        "SANDBOX_SERVICE_DATABASE": url,
        "SANDBOX_SERVICE_BROKER": redis.url,
        "SANDBOX_SERVICE_LEASE": str(LEASE),
        "SANDBOX_SERVICE_TICK": str(TICK),
    }
    database = open_database(url)
    migrate(database)
    scenario = lab.scenario(SCENARIO, test_own=CHECKS)
    made = Service(lab, folder, variables, database, scenario, saved)
    try:
        yield made
    finally:
        left = made.end()
        if left:  # a failed test's
            forked.run(["reap"], environment=variables)
    assert not left, left


@pytest.fixture
def untouched(production: Production) -> Iterator[None]:
    """The source runs on as it was."""
    before, up_since = alive(production), uptime(production)
    yield
    assert leftovers.backup_jobs([PRODUCTION]) == 0
    assert alive(production) == before
    assert uptime(production) > up_since


@pytest.fixture
def service(
    lab: Lab,
    saved: Path,
    postgres_server: Postgres,
    redis_of_chaos: Redis,
    untouched: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with _service(lab, saved, postgres_server, redis_of_chaos, folder) as made:
        made.start_beat()
        yield made
