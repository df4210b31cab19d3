"""A dashboard with something to show: the real server, and runs with real records and artifacts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import urlencode

from sandbox.core.records import RunRecord
from sandbox.core.store import Store
from tests.support.fakes.sample_records import write_artifacts
from tests.support.service.api_world import HOST, MANY, Answer, Api, started
from tests.support.service.services import service
from workers.artifacts.worker_folders import keep_attempt
from workers.queue import leases
from workers.queue.leases import claim, finish, note_folder
from workers.queue.submission import submit
from workers.queue.values import Claim, Order
from workers.web.auth.tokens import Scope
from workers.worker.rehearsal_executor import outcome_of

FORM = "application/x-www-form-urlencoded"
COOKIE = "sandbox"


@dataclass
class Visitor:
    """A browser without a window, as far as the server can tell: cookies, forms, where they go."""

    served: Api
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self._ask("GET", path, None, dict(headers or {}))

    def post(
        self, path: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> Answer:
        given = {"Content-Type": FORM, "Origin": f"http://127.0.0.1:{self.served.port}"}
        return self._ask("POST", path, urlencode(form).encode(), given | dict(headers or {}))

    def enter(self, token: str, onward: str = "") -> Answer:
        return self.post("/login", {"token": token, "next": onward})

    def csrf(self) -> str:
        """What the forms of this session carry."""
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.get("/hosts").body.decode())
        assert found
        return found[1]

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={one}" for name, one in self.cookies.items())
        told = self.served.ask(path, None, method=method, body=body, headers=headers)
        for name, morsel in SimpleCookie(told.headers.get("set-cookie", "")).items():
            self.cookies[name] = morsel.value
            if not morsel.value:
                del self.cookies[name]
        return told


@contextlib.contextmanager
def dashboard(**settings: str) -> Iterator[Api]:
    given = {"API_LISTEN": "127.0.0.1:0", "API_RATE": MANY, "API_FAILURES": MANY, **settings}
    with service(**given) as there:
        (there.folder / "scenarios").mkdir()  # looked for when a process begins
        yield started(there)


def visitor(served: Api, scope: Scope | None = Scope.READ) -> Visitor:
    """Signed in, unless by nothing."""
    one = Visitor(served)
    if scope is not None:
        assert one.enter(served.token(scope)).status == 303
    return one


def begun(served: Api, guest: str, scenario: str = "security", host: str = HOST) -> Claim:
    """A run that a worker has in hand."""
    database = served.there.database
    submit(database, Order(scenario, guest, host, fresh=True, origin="schedule shop"))
    held = claim(database, host, "worker-a", 600.0, None)
    assert held is not None
    assert held.guest == guest
    return held


def tell(served: Api, held: Claim, kind: str, text: str, percent: float | None = None) -> None:
    leases.tell(served.there.database, held, kind, text, percent)


def rehearsed(
    served: Api,
    record: RunRecord,
    guest: str | None = None,
    scenario: str = "security",
    host: str = HOST,
    said: str = "",
) -> str:
    """A run that ended as the record says, with the record and its files; ``said``: meanwhile."""
    held = begun(served, guest or record.guest, scenario, host)
    settings, database = served.there.settings, served.there.database
    place = Store(settings.sandbox).create()
    note_folder(database, held, place.id)
    write_artifacts(place.artifacts)
    record = record.model_copy(update={"id": place.id})
    place.save(record)
    for done in record.phases:
        tell(served, held, "phase", done.phase.value)
        word = "done" if done.ok else "failed"
        tell(served, held, "phase-end", f"{done.phase.value} {word} after {done.seconds:.1f} s")
    if said:
        tell(served, held, "detail", said)
    place.remove_clone()
    finish(database, held, outcome_of(record))
    keep_attempt(database, settings, held)
    return held.run_id
