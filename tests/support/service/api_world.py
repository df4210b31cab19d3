"""The HTTP API's own process for tests, asked over loopback by the standard library's client: it
sends what it is told to, and changes no path."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.core.deadline import Deadline
from tests.support.machine.forked import Forked
from tests.support.service.services import PATIENCE, Service, service
from workers.web.auth import tokens
from workers.web.auth.tokens import IssuedToken, Scope

SCENARIO, GUEST, HOST = "security", "web01", "xen1"
MANY = "100000"  # a minute: for tests that are not about limits


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> dict[str, Any]:
        """The problem that it tells; all of them have the same form."""
        assert self.headers["content-type"] == "application/problem+json", self
        told: dict[str, Any] = self.json
        assert {"type", "title", "status", "detail", "hint"} <= set(told)
        assert told["status"] == self.status
        assert "Traceback" not in self.body.decode()
        return told


@dataclass
class Api:
    there: Service
    process: Forked
    port: int
    made: dict[Scope, tuple[IssuedToken, str]] = field(default_factory=dict)

    def token(self, scope: Scope) -> str:
        if scope not in self.made:
            name = f"a {scope.value} token"
            self.made[scope] = tokens.create(self.there.database, name, scope, 3600.0)
        return self.made[scope][1]

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(
        self,
        path: str,
        token: str | Scope | None = Scope.READ,
        *,
        method: str = "GET",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """``body``: bytes, or what is sent as JSON."""
        text = self.token(token) if isinstance(token, Scope) else token
        sent = dict(headers or {})
        if text is not None:
            sent["Authorization"] = f"Bearer {text}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, body, sent)
            got = connection.getresponse()
            named = {name.lower(): value for name, value in got.getheaders()}
            return Answer(got.status, named, got.read())

    def submit(self, guest: str = GUEST, **more: Any) -> Answer:
        key = more.pop("idempotency_key", None)
        headers = {"Idempotency-Key": key} if key else {}
        body = {"scenario": SCENARIO, "guest": guest, "host": HOST, **more}
        return self.ask("/v1/runs", Scope.SUBMIT, method="POST", body=body, headers=headers)


@contextlib.contextmanager
def api(**settings: str) -> Iterator[Api]:
    """One that answers; its service has no worker."""
    given = {"API_LISTEN": "127.0.0.1:0", "API_RATE": MANY, "API_FAILURES": MANY, **settings}
    with service(**given) as there:
        yield started(there)


def started(there: Service, *arguments: str) -> Api:
    """The process of a service that is there."""
    process = there.start("api", *arguments)
    deadline = Deadline(PATIENCE, "serving")
    while "the HTTP API answers at" not in there.log.read_text():
        assert process.poll() is None, there.log.read_text()
        deadline.sleep(0.05)
    line = next(one for one in there.log.read_text().splitlines() if "API answers at" in one)
    url = json.loads(line)["url"]
    return Api(there, process, int(url.rpartition(":")[2].partition("/")[0]))
