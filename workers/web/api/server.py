"""`sandbox api`: the process that serves it."""

from __future__ import annotations

import signal
import socket
import ssl
import sys
from pathlib import Path

import structlog
import uvicorn

from sandbox.core.errors import RequestError
from workers import logs
from workers.chat.config import read_chat
from workers.chat.receive import Ear
from workers.chat.send import sending
from workers.chat.values import Chat
from workers.database import open_database, require_schema
from workers.monitoring.listen_address import address
from workers.settings import ServiceSettings
from workers.web.api.application import make
from workers.web.api.limiting import Limiter

GRACE = 10  # seconds from SIGTERM on that answers have
_AT_ONCE = 500  # connections
log = structlog.get_logger("sandbox.api")


def serve(settings: ServiceSettings) -> None:
    """Answer until SIGTERM. Raises :class:`HostError` where the database is not ready, and
    :class:`RequestError` for an address or certificate that will not do."""
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn has its own, and sends them on after
        signal.signal(number, lambda _number, _frame: sys.exit(0))
    logs.hide_secrets_of(settings)
    database = open_database(settings.database)
    try:
        require_schema(database)
        tls = _tls(settings)
        chat = _chat(settings)
        listener = _listener(settings.api_listen)
        with listener, sending(settings, database, chat) as senders:
            limiter = Limiter(settings)
            ear = Ear(
                *(settings, database, chat, senders.hurry, senders.wake),
                limit=lambda name: limiter.hit(limiter.requests, f"channel {name}"),
            )
            app = make(settings, database, lambda: server.should_exit, ear)
            config = uvicorn.Config(
                app,
                log_config=None,
                access_log=False,  # ours has no query in it
                server_header=False,
                proxy_headers=bool(settings.api_proxies),
                forwarded_allow_ips=list(settings.api_proxies),
                limit_concurrency=_AT_ONCE,
                timeout_graceful_shutdown=GRACE,
                h11_max_incomplete_event_size=32 * 1024,
                ssl_certfile=tls[0],
                ssl_keyfile=tls[1],
                ws="none",
            )
            server = _Server(config, _url(listener, secure=bool(tls[0])))
            server.run(sockets=[listener])
    finally:
        database.close()


class _Server(uvicorn.Server):
    """Says where it is, once it answers."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        log.info(
            f"the HTTP API answers at {self._url}; for a token: "
            "sandbox token create --scope submit --name NAME",
            url=self._url,
        )


def _listener(listen: str) -> socket.socket:
    host, port = address(listen, ServiceSettings.api_listen)
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
        )
    except OSError as problem:
        raise RequestError(
            f"the HTTP API cannot be served at {listen}: {problem.strerror or problem}",
            "choose another HOST:PORT: --listen, or SANDBOX_SERVICE_API_LISTEN",
        ) from problem


def _chat(settings: ServiceSettings) -> Chat:
    if not settings.chat:
        return Chat()
    chat = read_chat(Path(settings.chat))
    for channel in chat.channels:
        logs.hide(channel.secret, channel.token)
    return chat


def _url(listener: socket.socket, *, secure: bool) -> str:
    host, port = listener.getsockname()[:2]
    bare = f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{bare}:{port}/v1"


def _tls(settings: ServiceSettings) -> tuple[str | None, str | None]:
    given = (settings.api_tls_cert, settings.api_tls_key)
    if bool(given[0]) != bool(given[1]):
        raise RequestError(
            "a certificate needs its key, and a key its certificate",
            "give --tls-cert and --tls-key, or neither",
        )
    if not given[0]:
        return None, None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*given, password=_no_password)
    except OSError as problem:  # ssl's own are of this kind, too
        raise RequestError(
            f"{' and '.join(given)} cannot be used: {problem.strerror or problem}",
            "name PEM files that this user may read, the key without a password",
        ) from problem
    return given


def _no_password() -> str:
    """An empty password prevents a prompt: a service has no terminal."""
    return ""
