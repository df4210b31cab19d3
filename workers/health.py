"""Whether this machine's part of the service is fit for work: for health checks of containers.

Proof that the whole way works is the canary; this is cheap enough for every few seconds.
"""

from __future__ import annotations

import os
import socket

from sandbox.errors import HostError
from workers.app import make_app
from workers.database import Database, require_schema
from workers.presence import SILENT, WorkerRow, present
from workers.settings import ServiceSettings

_BROKER_SECONDS = 5.0


def examine(
    settings: ServiceSettings, database: Database, *, needs_worker: bool
) -> tuple[str, ...]:
    """What works, one line each. Raises :class:`HostError` for the first that does not."""
    require_schema(database)
    lines = [f"database: {database.url} answers, its schema is this version's"]
    _ask_broker(settings)
    lines.append("broker: answers")
    if needs_worker:
        mine = [one for one in present(database) if is_here(one)]
        fresh = [one for one in mine if not one.gone]
        if not fresh:
            raise HostError(
                f"no worker of this machine was seen within {SILENT:g} s",
                f"{mine[-1].name} was, {mine[-1].silent:.0f} s ago" if mine else "none signed on",
            )
        lines.append(f"worker: {fresh[-1].name} is {fresh[-1].state}")
    return tuple(lines)


def is_here(worker: WorkerRow) -> bool:
    """Whether a worker is a process of this machine, or of this container, and lives."""
    machine, _, pid = worker.name.rpartition("-")
    return machine == socket.gethostname() and pid.isdigit() and _lives(int(pid))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return True


def _ask_broker(settings: ServiceSettings) -> None:
    try:
        with make_app(settings) as app, app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_BROKER_SECONDS)
    except Exception as problem:  # kombu's own kinds are many
        raise HostError(f"the broker does not answer: {problem}", "is Redis up?") from problem
