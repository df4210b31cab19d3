"""A service of the tests' own: real Redis, real processes, pretended rehearsals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.machine import forked
from tests.support.machine.forked import Forked
from tests.support.service.servers import Redis, redis_server, short_folder
from workers.database import Database, migrate, open_database
from workers.settings import ServiceSettings, read_service_settings

HOSTS = ("xen1", "xen2")
PATIENCE = 180.0  # seconds, on a machine that is busy with other things
_ENTRY = """  - name: {0}
    uri: xen+ssh://root@{0}.example.org/system
"""


@dataclass
class Service:
    folder: Path
    redis: Redis
    database: Database
    environment: dict[str, str]
    settings: ServiceSettings
    processes: list[Forked] = field(default_factory=list)

    @property
    def log(self) -> Path:
        """What all its processes logged."""
        return self.folder / "log"

    def start(self, *arguments: str) -> Forked:
        """A process of the service, in a group of its own, as systemd would have it."""
        with self.log.open("ab") as log:
            process = Forked(arguments, environment=self.environment, output=log, cwd=self.folder)
        self.processes.append(process)
        return process

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return forked.run(
            arguments, environment=self.environment, cwd=self.folder, timeout=PATIENCE
        )

    @staticmethod
    def kill(process: Forked) -> None:
        """With all its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def service(*, schema: bool = True, **settings: str) -> Iterator[Service]:
    """Redis, a database, an inventory of two hosts; no process yet."""
    with short_folder("sbsvc-") as folder, redis_server() as redis:
        (folder / "hosts.yaml").write_text("hosts:\n" + "".join(map(_ENTRY.format, HOSTS)))
        (folder / "state").mkdir()
        given = {
            "DATABASE": f"sqlite:///{folder}/truth.db",
            "BROKER": redis.url,
            "EXECUTOR": f"simulated:{folder}/pretended?seconds=0.01",
            "LEASE": "60",
            **settings,
        }
        environment = {
            **{name: v for name, v in os.environ.items() if not name.startswith("SANDBOX_")},
            **{f"SANDBOX_SERVICE_{name}": value for name, value in given.items()},
            "SANDBOX_STATE": str(folder / "state"),
            "SANDBOX_URI": "qemu:///system",
            "SANDBOX_HOSTS": str(folder / "hosts.yaml"),
        }
        made = read_service_settings(environment)
        database = open_database(made.database)
        if schema:
            migrate(database)
        there = Service(folder, redis, database, environment, made)
        try:
            yield there
        finally:
            for process in there.processes:
                there.kill(process)
            database.close()
