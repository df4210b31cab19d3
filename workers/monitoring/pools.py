"""How full the hosts' thin pools are: noted by their workers, for metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from sandbox.core.deadline import Deadline
from sandbox.core.errors import SandboxError
from sandbox.hosts.inventory import connected, find_host
from sandbox.hosts.volumes import lvm
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import pools
from workers.settings import ServiceSettings

STALE = 3600.0  # seconds; an older measurement is not reported any more
_LOOK_SECONDS = 60.0
log = structlog.get_logger("sandbox.pools")


@dataclass(frozen=True)
class PoolKnown:
    """How full a thin pool was when a worker last looked; percent."""

    host: str
    pool: str
    data: float
    metadata: float
    looked: float


def known_pools(database: Database) -> tuple[PoolKnown, ...]:
    """Those that were looked at lately, by host and name."""
    query = select(pools).where(pools.c.looked > now() - STALE)
    with database.read() as connection:
        rows = connection.execute(query.order_by(pools.c.host, pools.c.pool)).all()
    return tuple(PoolKnown(*row) for row in rows)


def look_at_pools(database: Database, settings: ServiceSettings, host: str) -> None:
    """Note how full a host's thin pools are; a host without any has none."""
    if settings.executor != "rehearsal":
        return  # pretended hosts have no pools
    try:
        with connected(find_host(host, settings.sandbox)) as hypervisor:
            found = lvm.survey(hypervisor.host, Deadline(_LOOK_SECONDS, "looking at the pools"))
        note_pools(database, host, found.pools)
    except SandboxError as problem:
        log.warning("pools not looked at", host=host, problem=str(problem))


def note_pools(database: Database, host: str, found: tuple[lvm.Pool, ...]) -> None:
    for pool in found:
        name = f"{pool.group}/{pool.name}"
        fresh: dict[str, Any] = {"data": pool.data, "metadata": pool.metadata, "looked": now()}
        with database.write() as connection:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            noted = dialect.insert(pools).values(host=host, pool=name, **fresh)
            connection.execute(
                noted.on_conflict_do_update(index_elements=["host", "pool"], set_=fresh)
            )
