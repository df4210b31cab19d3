"""Whether this machine's part of the service is fit for work: for health checks of containers.

Proof that the whole way works is the canary; this is cheap enough for every few seconds.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl

from sandbox.core.errors import HostError
from workers.database import Database, require_schema
from workers.monitoring.listen_address import address
from workers.queue.celery_app import make_app
from workers.queue.presence import SILENT, WorkerRow, present
from workers.settings import ServiceSettings

_BROKER_SECONDS = 5.0
_API_SECONDS = 20.0


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


def ask_api(settings: ServiceSettings) -> str:
    """That the HTTP API of this machine answers, in one line."""
    host, port = address(settings.api_listen, ServiceSettings.api_listen)
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    try:
        with contextlib.closing(_connection(settings, here, port)) as connection:
            connection.request("GET", "/v1/health")
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as problem:
        raise HostError(
            f"the HTTP API does not answer at {settings.api_listen}: {problem}",
            "does `sandbox api` run?",
        ) from problem
    if status != 200:
        raise HostError(f"the HTTP API answers with {status}", "its log says why")
    return f"api: answers at {settings.api_listen}"


def _connection(settings: ServiceSettings, host: str, port: int) -> http.client.HTTPConnection:
    """Its certificate is the one that it was given, whatever name that is of."""
    if not settings.api_tls_cert:
        return http.client.HTTPConnection(host, port, timeout=_API_SECONDS)
    trust = ssl.create_default_context(cafile=settings.api_tls_cert)
    trust.check_hostname = False
    trust.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return http.client.HTTPSConnection(host, port, timeout=_API_SECONDS, context=trust)


def _ask_broker(settings: ServiceSettings) -> None:
    try:
        with make_app(settings) as app, app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_BROKER_SECONDS)
    except Exception as problem:  # kombu's own kinds are many
        raise HostError(f"the broker does not answer: {problem}", "is Redis up?") from problem
