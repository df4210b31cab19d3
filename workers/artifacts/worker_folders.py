"""A worker's own folders: copied to the place for artifacts, and removed when they expire.

Each machine has its own, so each worker sees to them, whatever the broker does: after every
attempt, and now and then for what was left over. That is done in a process of its own, since a
worker forks: none of its threads may hold a library's lock just then.

Only the folders of queued runs are touched, and none whose clone is still there: a run that a
person started with `sandbox run` is that person's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import structlog
from sqlalchemy import Row, select

from sandbox.core.errors import SandboxError
from sandbox.core.settings import SERVICE_PREFIX
from sandbox.core.store import RunFolder, Store
from workers.artifacts.places import Place, files_of, place_for
from workers.artifacts.retention import EXPIRED, STORED, mark, too_old
from workers.database import Database, open_database
from workers.database.clock import now
from workers.database.schema import attempts
from workers.database.states import Change
from workers.queue.values import Claim
from workers.settings import ServiceSettings

EVERY = 300.0  # seconds
FIRST = 30.0  # after the worker's start
SETTLED = 60.0  # seconds after an attempt's end that its own process is given for the copy
_PORTION = 500  # ids a query
log = structlog.get_logger("sandbox.keeping")


def keep_attempt(database: Database, settings: ServiceSettings, claim: Claim) -> None:
    """After an attempt: copy its artifacts, and make room. Whatever fails is tried again later;
    the verdict has been written already."""
    try:
        place = place_for(settings)
        if place is not None:
            _copy_own(database, settings, place, claim)
        expire_local(database, settings)
    except (SandboxError, OSError) as problem:
        log.warning("artifacts not copied yet", run=claim.run_id, problem=str(problem))


def _copy_own(database: Database, settings: ServiceSettings, place: Place, claim: Claim) -> None:
    query = select(attempts).where(
        attempts.c.run_id == claim.run_id, attempts.c.fence == claim.fence
    )
    with database.read() as connection:
        row = connection.execute(query).first()
    if row is not None and _is_to_be_copied(settings, row):
        copy(database, settings, place, row)


def keep(database: Database, settings: ServiceSettings) -> None:
    """Copy what was left over, then remove what has expired."""
    place = place_for(settings)
    if place is not None:
        copy_left(database, settings, place)
    expire_local(database, settings)


def copy_left(database: Database, settings: ServiceSettings, place: Place) -> None:
    """Copy what the attempts' own processes did not: killed, or the place did not answer."""
    for row in _local(database, settings):
        if row.settled and not row.old and _is_to_be_copied(settings, row):
            try:
                copy(database, settings, place, row)
            except SandboxError as problem:
                log.warning("artifacts not copied yet", run=row.run_id, problem=str(problem))
                return  # the others would fare no better


def copy(database: Database, settings: ServiceSettings, place: Place, row: Row[Any]) -> None:
    """Copy an attempt's folder, and write that down."""
    folder = _folder(settings, row)
    if not folder.artifacts.is_dir():
        return
    size = place.put(folder.id, folder.artifacts)
    mark(database, row, STORED, size)
    log.info("artifacts copied", run=row.run_id, record=folder.id, to=place.url, bytes=size)


def expire_local(database: Database, settings: ServiceSettings) -> tuple[str, ...]:
    """Remove this machine's folders that are too old, then the oldest of what is too much."""
    used = sum(one.size for one in files_of(settings.sandbox.runs)) if settings.keep_bytes else 0
    removed = []
    for row in sorted(_local(database, settings), key=lambda row: row.ended or 0.0):
        beyond = used - settings.keep_bytes if settings.keep_bytes else 0
        if not _is_over(settings, row) or not (row.old or (row.settled and beyond > 0)):
            continue
        folder = _folder(settings, row).artifacts
        used -= sum(one.size for one in files_of(folder))
        shutil.rmtree(folder, ignore_errors=True)
        removed.append(folder.name)
        if not row.artifacts:
            if settings.artifacts:
                log.warning("artifacts expired before they were copied", run=row.run_id)
            mark(database, row, EXPIRED)
    if removed:
        log.info("artifacts expired", place=str(settings.sandbox.runs), records=removed)
    return tuple(removed)


def _local(database: Database, settings: ServiceSettings) -> Iterator[Row[Any]]:
    """The attempts that have a folder here."""
    runs = settings.sandbox.runs
    ids = sorted(path.name for path in runs.iterdir()) if runs.is_dir() else []
    for start in range(0, len(ids), _PORTION):
        query = select(
            attempts,
            too_old(settings.keep_days).label("old"),
            (attempts.c.ended < now() - SETTLED).label("settled"),
        ).where(attempts.c.folder.in_(ids[start : start + _PORTION]))
        with database.read() as connection:
            yield from connection.execute(query).all()


def _folder(settings: ServiceSettings, row: Row[Any]) -> RunFolder:
    return Store(settings.sandbox).folder(row.folder)


def _is_over(settings: ServiceSettings, row: Row[Any]) -> bool:
    """Ended, and its clone is gone: neither kept nor still to be reaped."""
    return bool(row.folder) and row.ended is not None and not _folder(settings, row).clone.exists()


def _is_to_be_copied(settings: ServiceSettings, row: Row[Any]) -> bool:
    """An attempt that was handed back is not copied: it has no result to look up."""
    return not row.artifacts and row.outcome != Change.HAND_BACK.value and _is_over(settings, row)


# -- in a process of its own ------------------------------------------------------------------


class Keeping:
    """Starts that process from a worker's thread now and then, and ends it with the worker."""

    def __init__(self, settings: ServiceSettings, first: float = FIRST) -> None:
        self._settings = settings
        self._first = first
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._work, name="keeping", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        with self._lock:
            if self._process is not None:
                self._process.terminate()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        argv = [sys.executable, "-P", "-m", "workers.artifacts.worker_folders"]
        pause = self._first
        while not self._end.wait(pause):
            pause = EVERY
            with self._lock:
                if self._end.is_set():
                    return
                self._process = subprocess.Popen(argv, env=environment(self._settings))
            self._process.wait()


def environment(settings: ServiceSettings) -> dict[str, str]:
    """For a process that sees to the same folders; keys of S3 are where they are for us."""
    own = {
        "DATABASE": settings.database,
        "ARTIFACTS": settings.artifacts,
        "S3_ENDPOINT": settings.s3_endpoint,
        "KEEP_DAYS": repr(settings.keep_days),
        "KEEP_BYTES": str(settings.keep_bytes) if settings.keep_bytes else "",
    }
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("SANDBOX_")}
    return (
        inherited
        | {"SANDBOX_STATE": str(settings.sandbox.state), "SANDBOX_URI": settings.sandbox.uri}
        | {SERVICE_PREFIX + name: value for name, value in own.items() if value}
    )


def main() -> int:
    """One turn; the exit status."""
    from workers import logs
    from workers.settings import read_service_settings

    settings = read_service_settings()
    logs.configure()
    logs.hide_secrets_of(settings)
    database = open_database(settings.database)
    try:
        keep(database, settings)
    except (SandboxError, OSError) as problem:
        log.warning("artifacts not seen to", problem=str(problem))
        return 4
    finally:
        database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
