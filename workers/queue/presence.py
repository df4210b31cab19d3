"""Which workers there are: each says so in the database, every few seconds."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from sandbox import __version__
from sandbox.core.errors import SandboxError
from workers.database import Database, open_database
from workers.database.clock import now
from workers.database.schema import workers

EVERY = 10.0  # seconds
SILENT = 45.0  # seconds after which a worker counts as gone
FORGOTTEN = 7 * 86400.0
log = structlog.get_logger("sandbox.presence")


@dataclass(frozen=True)
class WorkerRow:
    name: str
    hosts: tuple[str, ...]
    slots: int
    version: str
    state: str  # "up" | "draining"
    started: float
    seen: float
    silent: float  # seconds since it was seen

    @property
    def gone(self) -> bool:
        return self.silent > SILENT


class Presence:
    """Keeps a worker's row fresh from a thread with a connection of its own."""

    def __init__(self, url: str, name: str, hosts: Sequence[str], slots: int) -> None:
        self._url = url
        self._values = {"name": name, "hosts": list(hosts), "slots": slots}
        self._state = "up"
        self._end = threading.Event()
        self._now = threading.Event()
        self._thread = threading.Thread(target=self._work, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def drain(self) -> None:
        self._state = "draining"
        self._now.set()

    def stop(self) -> None:
        """The worker ends as it should: its row goes with it. One that was told to end before it
        was ready has none."""
        self._end.set()
        self._now.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _work(self) -> None:
        database = open_database(self._url)
        try:
            while not self._end.is_set():
                self._tell(database)
                self._now.wait(EVERY)
                self._now.clear()
            with database.write() as connection:
                connection.execute(delete(workers).where(workers.c.name == self._values["name"]))
        except SandboxError as problem:
            log.warning("not signed off", problem=str(problem))
        finally:
            database.close()

    def _tell(self, database: Database) -> None:
        fresh = {"state": self._state, "seen": now(), "version": __version__}
        try:
            with database.write() as connection:
                dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
                told = dialect.insert(workers).values(**self._values, **fresh, started=now())
                told = told.on_conflict_do_update(
                    index_elements=[workers.c.name], set_={**self._values, **fresh}
                )
                connection.execute(told)
                connection.execute(delete(workers).where(workers.c.seen < now() - FORGOTTEN))
        except SandboxError as problem:
            log.warning("presence not told", problem=str(problem))


def present(database: Database) -> tuple[WorkerRow, ...]:
    """All workers that have not signed off, the silent ones too."""
    query = select(
        workers.c.name,
        workers.c.hosts,
        workers.c.slots,
        workers.c.version,
        workers.c.state,
        workers.c.started,
        workers.c.seen,
        (now() - workers.c.seen).label("silent"),
    ).order_by(workers.c.name)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return tuple(
        WorkerRow(r.name, tuple(r.hosts), r.slots, r.version, r.state, r.started, r.seen, r.silent)
        for r in rows
    )
