"""How full the hosts' thin pools are: noted by their workers, for metrics."""

from __future__ import annotations

from typing import Any

import structlog
from sqlalchemy.dialects import postgresql, sqlite

from sandbox.deadline import Deadline
from sandbox.errors import SandboxError
from sandbox.hosts import connected, find_host
from sandbox.volumes import lvm
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import pools
from workers.settings import ServiceSettings

_LOOK_SECONDS = 60.0
log = structlog.get_logger("sandbox.pools")


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
