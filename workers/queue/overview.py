"""What there is to rehearse, and where, as far as the service knows by itself.

No hypervisor is asked: hosts are those of the inventory and of the workers, guests those of runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import func, literal, select, tuple_

from sandbox.core.errors import RequestError, SandboxError
from sandbox.core.records import Verdict
from sandbox.hosts.inventory import KnownHost, default_host, inventory
from sandbox.scenario import load_scenario
from sandbox.scenario.request import find_scenario, scenario_names
from workers.database import Database
from workers.database.schema import runs, state_in
from workers.database.states import HELD, RunState
from workers.queue.presence import WorkerRow, present
from workers.settings import ServiceSettings


@dataclass(frozen=True)
class ScenarioKnown:
    """A scenario that can be run by name; ``problem`` says why it cannot."""

    name: str
    description: str
    upgrade: str
    guest: str  # of its own, or ""
    scheduled: bool
    problem: str


@dataclass(frozen=True)
class HostKnown:
    """A host, with its queue and the workers that serve it. Its URI is not for clients."""

    name: str
    kind: str  # xen, qemu; "" for one that only a worker knows
    parallel: int | None
    queued: int
    running: int
    workers: tuple[WorkerRow, ...]


@dataclass(frozen=True)
class GuestKnown:
    """A guest that was rehearsed, or is to be, with its last verdict, if it has one."""

    host: str
    guest: str
    run_id: str | None
    scenario: str | None
    verdict: Verdict | None
    reason: str | None
    ended: float | None


def named_scenario(settings: ServiceSettings, name: str) -> str:
    """The name of a known scenario; only a user of the machine itself may name a path."""
    if name not in scenario_names(settings.sandbox):
        known = ", ".join(scenario_names(settings.sandbox)) or "none"
        raise RequestError(f"no scenario {name!r}", f"there are: {known}")
    return name


def scenarios(settings: ServiceSettings) -> Iterator[ScenarioKnown]:
    for name in scenario_names(settings.sandbox):
        try:
            path = find_scenario(name, settings.sandbox)
            read = load_scenario(path, shared=settings.sandbox.shared_checks)
        except SandboxError as problem:
            yield ScenarioKnown(name, "", "", "", False, problem.message)
            continue
        guest = read.source.guest or "" if read.source else ""
        scheduled = read.schedule is not None
        yield ScenarioKnown(name, read.description, read.upgrade.what, guest, scheduled, "")


def hosts(database: Database, settings: ServiceSettings) -> Iterator[HostKnown]:
    """Those of the inventory, else the default one; then what else workers serve."""
    listed = inventory(settings.sandbox) or (default_host(settings.sandbox),)
    known: dict[str, KnownHost | None] = {one.name: one for one in listed}
    workers = present(database)
    for worker in workers:
        known |= {name: None for name in worker.hosts if name not in known}
    queued, running = _count(database, RunState.QUEUED), _count(database, *HELD)
    for name, host in known.items():
        yield HostKnown(
            name=name,
            kind=host.kind if host else "",
            parallel=host.limits.parallel if host else None,
            queued=queued.get(name, 0),
            running=running.get(name, 0),
            workers=tuple(one for one in workers if name in one.hosts),
        )


def _count(database: Database, *states: RunState) -> Mapping[str, int]:
    query = select(runs.c.host, func.count().label("there")).where(state_in(runs, *states))
    with database.read() as connection:
        return {row.host: row.there for row in connection.execute(query.group_by(runs.c.host))}


def guests(
    database: Database, limit: int, after: tuple[str, str] | None = None
) -> tuple[GuestKnown, ...]:
    """By host and name, those after a pair of them."""
    pairs = select(runs.c.host, runs.c.guest).distinct().order_by(runs.c.host, runs.c.guest)
    if after is not None:
        pairs = pairs.where(tuple_(runs.c.host, runs.c.guest) > tuple_(*map(literal, after)))
    pair = pairs.limit(limit).subquery()
    newer = runs.alias("newer")
    newest = (
        select(newer.c.id)
        .where(newer.c.host == pair.c.host, newer.c.guest == pair.c.guest)
        .where(newer.c.verdict.is_not(None))
        .order_by(newer.c.submitted.desc(), newer.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    found = select(pair.c.host, pair.c.guest, newest.label("run_id")).subquery()
    query = (
        select(found, runs.c.scenario, runs.c.verdict, runs.c.reason, runs.c.ended)
        .outerjoin(runs, runs.c.id == found.c.run_id)
        .order_by(found.c.host, found.c.guest)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    return tuple(
        GuestKnown(
            row.host,
            row.guest,
            row.run_id,
            row.scenario,
            None if row.verdict is None else Verdict(row.verdict),
            row.reason,
            row.ended,
        )
        for row in rows
    )
