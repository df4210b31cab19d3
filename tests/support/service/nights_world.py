"""A service with one schedule, and real receivers of its summaries on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope
from sqlalchemy import select, update

from sandbox.core.records import Verdict
from workers.database import Database
from workers.database.schema import night_guests, nights, runs
from workers.queue.leases import claim, finish
from workers.queue.values import Outcome
from workers.settings import ServiceSettings, read_service_settings

PATIENCE = 60.0
FIRST_SEEN = datetime(2026, 3, 2, 12, 0, tzinfo=UTC).timestamp()
DUE = datetime(2026, 3, 3, 0, 30, tzinfo=UTC).timestamp()  # 01:30 in Berlin
DAY = 86400.0
HOSTS = """\
hosts:
  - {name: xen1, uri: "xen+ssh://root@xen1.example.org/system"}
  - {name: xen2, uri: "xen+ssh://root@xen2.example.org/system"}
"""
SCENARIO = """\
upgrade: {what: security}
login: {inject: true}
schedule:
  cron: 30 1 * * *
  timezone: Europe/Berlin
  host: xen1
"""


@dataclass
class World:
    """Settings, and the scenarios that they lead to."""

    folder: Path
    notify: tuple[str, ...] = ()

    def settings(self) -> ServiceSettings:
        scenarios = self.folder / "scenarios"
        scenarios.mkdir(exist_ok=True)
        (self.folder / "hosts.yaml").write_text(HOSTS)
        return read_service_settings(
            {
                "SANDBOX_STATE": "/nonexistent",  # nights write nothing but the database
                "SANDBOX_SCENARIOS": str(scenarios),
                "SANDBOX_HOSTS": str(self.folder / "hosts.yaml"),
                "SANDBOX_URI": "xen+ssh://root@xen1.example.org/system",
                "SANDBOX_SERVICE_NOTIFY": " ".join(self.notify),
            }
        )

    def write(self, *guests: str, name: str = "fleet", **said: object) -> None:
        """The scenario, with other values of its schedule."""
        place = self.folder / "scenarios" / name
        place.mkdir(parents=True, exist_ok=True)
        lines = [f"  {key}: {value}\n" for key, value in said.items()]
        listed = ", ".join(guests or ("web01", "web02", "{guest: db01, host: xen2}"))
        text = SCENARIO + "".join(lines) + f"  guests: [{listed}]\n"
        (place / "scenario.yaml").write_text(text)
        (place / "test_it.py").write_text("def test_it(host):\n    assert True\n")


def all_runs(database: Database) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(select(runs).order_by(runs.c.submitted, runs.c.guest)))


def all_nights(database: Database) -> list[tuple[float, str]]:
    with database.read() as connection:
        query = select(nights.c.due, nights.c.outcome).order_by(nights.c.due)
        return [(row.due, row.outcome) for row in connection.execute(query)]


def guests_of(database: Database, due: float) -> dict[str, str | None]:
    """The run of each guest of a night."""
    query = select(night_guests.c.guest, night_guests.c.run_id).where(night_guests.c.due == due)
    with database.read() as connection:
        return {row.guest: row.run_id for row in connection.execute(query)}


def rehearse(database: Database, **verdicts: str) -> None:
    """Finish all open runs: by guest, else with a pass."""
    with database.write() as connection:
        connection.execute(update(runs).values(not_before=0.0))
    for host in ("xen1", "xen2"):
        while (held := claim(database, host, "worker-a", PATIENCE, None)) is not None:
            verdict = Verdict(verdicts.get(held.guest, "pass"))
            reason = "all checks hold" if verdict is Verdict.PASS else "nginx does not start"
            finish(database, held, Outcome(verdict, reason))


@dataclass
class Mailbox:
    """A mail server that keeps what it gets."""

    port: int = 0
    got: list[EmailMessage] = field(default_factory=list)

    async def handle_DATA(self, _server: SMTP, _session: object, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.got.append(message)
        return "250 OK"

    @property
    def url(self) -> str:
        return f"mailto://127.0.0.1:{self.port}?from=sandbox@example.org&to=ops@example.org"


@contextlib.contextmanager
def mail_server() -> Iterator[Mailbox]:
    box = Mailbox()
    loop = asyncio.new_event_loop()

    async def listen() -> asyncio.Server:
        return await loop.create_server(lambda: SMTP(box, hostname="test"), "127.0.0.1", 0)

    server = loop.run_until_complete(listen())
    box.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield box
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        server.close()
        loop.close()


@dataclass
class Hook:
    """A web hook that keeps what it gets. ``answers`` are the next answers' statuses."""

    secret: str = "a-secret-path"
    port: int = 0
    got: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0
    answers: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"json://user:a-secret-word@127.0.0.1:{self.port}/{self.secret}"


@contextlib.contextmanager
def web_hook() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = hook.answers.pop(0) if hook.answers else 200
            if status == 200:
                hook.got.append(json.loads(body))
            else:
                hook.refused += 1
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)
