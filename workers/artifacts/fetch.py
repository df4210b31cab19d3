"""`sandbox artifacts`: what a queued run's attempts left, wherever it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click
from sqlalchemy import select

from sandbox.core.errors import RequestError
from sandbox.core.store import Store
from workers.artifacts.places import Folder, Place, Stored, place_for
from workers.artifacts.retention import EXPIRED, STORED
from workers.database import Database
from workers.database.schema import attempts
from workers.queue import reading
from workers.settings import ServiceSettings

NOTHING = 4


@dataclass(frozen=True)
class AttemptArtifacts:
    """The artifacts of one attempt."""

    attempt: int  # its fence
    record: str
    state: str  # "stored", "here" (on this machine), "elsewhere", "expired"
    owner: str
    place: Place | None
    files: tuple[Stored, ...]


def left(
    database: Database, settings: ServiceSettings, run_id: str
) -> tuple[AttemptArtifacts, ...]:
    """What each attempt of a run left, oldest first."""
    query = (
        select(attempts)
        .where(attempts.c.run_id == run_id, attempts.c.folder != "")
        .order_by(attempts.c.fence)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    copied = place_for(settings)
    found = []
    for row in rows:
        here = Store(settings.sandbox).folder(row.folder).artifacts
        state, place = "elsewhere", None
        if row.artifacts == STORED and copied is not None:
            state, place = "stored", copied
        elif here.is_dir():
            state, place = "here", Folder(here.parent)
        elif row.artifacts == EXPIRED:
            state = "expired"
        files = place.files(row.folder) if place else ()
        found.append(AttemptArtifacts(row.fence, row.folder, state, row.owner, place, files))
    return tuple(found)


def print_artifacts(
    database: Database,
    settings: ServiceSettings,
    run_id: str,
    output: Path | None,
    *,
    as_json: bool,
) -> int:
    """List them, or fetch them into a folder for each attempt; 4 when there is nothing."""
    run = reading.find(database, run_id)
    found = left(database, settings, run.id)
    if not found:
        raise RequestError(
            f"run {run.id} has no artifacts: no attempt has begun", "`sandbox status` says more"
        )
    for one in found:
        if output is not None and one.place is not None:
            one.place.fetch(one.record, output / one.record)
        _tell(one, output, as_json=as_json)
    return 0 if any(one.files for one in found) else NOTHING


def _tell(one: AttemptArtifacts, output: Path | None, *, as_json: bool) -> None:
    where = one.place.url if one.place else ""
    if as_json:
        for file in one.files:
            line = {"attempt": one.attempt, "record": one.record, "place": where}
            click.echo(json.dumps(line | {"name": file.name, "bytes": file.size}))
        return
    if one.place is None:
        why = "expired" if one.state == "expired" else f"on the machine of worker {one.owner}"
        click.echo(f"{one.record}: {why}")
        return
    click.echo(f"{one.record}: {len(one.files)} files in {output or where}")
    for file in one.files:
        click.echo(f"  {file.size:>10}  {file.name}")
