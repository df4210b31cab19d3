"""The report of a queued run, wherever its record is by now."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select

from sandbox.core.errors import RequestError
from sandbox.core.records import RunRecord
from sandbox.core.store import RunFolder, Store
from sandbox.rehearsal.recovery import told
from sandbox.report import render
from workers.artifacts.fetch import AttemptArtifacts, left
from workers.artifacts.places import RECORD, Wanted, everything
from workers.artifacts.worker_folders import SETTLED
from workers.database import Database
from workers.database.schema import attempts
from workers.database.states import WrongState
from workers.settings import ServiceSettings


class NoReport(RequestError):
    """There is none, or none any more."""


def report(database: Database, settings: ServiceSettings, run_id: str, format: str) -> str:
    """Of the last attempt that left a record; raises as :func:`last_record` does."""
    last = last_record(database, settings, left(database, settings, run_id), run_id)
    with opened(settings, last) as (record, folder):
        return render(record, folder, format)


def last_record(
    database: Database, settings: ServiceSettings, found: Sequence[AttemptArtifacts], run_id: str
) -> AttemptArtifacts:
    """The attempt that the report is of; raises :class:`NoReport`, and :class:`WrongState` while
    that attempt is still at work."""
    if not found:
        raise NoReport(f"run {run_id} has no report: no attempt has begun", "wait for its end")
    last = found[-1]
    _require_ended(database, settings, run_id, last)
    if last.place is None or RECORD not in {one.name for one in last.files}:
        raise NoReport(f"run {run_id} has no report here", _why(last))
    return last


@contextmanager
def opened(
    settings: ServiceSettings, last: AttemptArtifacts, wanted: Wanted = everything
) -> Iterator[tuple[RunRecord, Path]]:
    """A record with the folder of its artifacts; ``wanted``: which ones are to be had, where they
    have to be fetched."""
    assert last.place is not None
    with tempfile.TemporaryDirectory(prefix="sandbox-report-") as fetched:
        here = Store(settings.sandbox).folder(last.record)
        if last.state == "stored":
            last.place.fetch(last.record, Path(fetched), wanted)
            here = RunFolder(last.record, Path(fetched), here.clone)
        yield told(here, Store(settings.sandbox).load(here)), here.artifacts


def _require_ended(
    database: Database, settings: ServiceSettings, run_id: str, last: AttemptArtifacts
) -> None:
    query = select(attempts.c.ended).where(
        attempts.c.run_id == run_id, attempts.c.fence == last.attempt
    )
    with database.read() as connection:
        ended = connection.execute(query).scalar()
    if ended is None:
        raise WrongState(f"run {run_id} is still being rehearsed", "its report comes with its end")
    if last.state == "elsewhere" and settings.artifacts and database.now() - ended < SETTLED:
        raise WrongState(f"what run {run_id} left is being copied", "its report comes in a moment")


def _why(last: AttemptArtifacts) -> str:
    match last.state:
        case "expired":
            return "its artifacts were removed for their age or size; the verdict stays"
        case "elsewhere":
            return (
                f"it is on the machine of worker {last.owner}; "
                "SANDBOX_SERVICE_ARTIFACTS names a place that all of the service reach"
            )
        case _:
            return "the attempt ended before its record was written"
