"""Runs: submitted, listed, looked at, cancelled, tried again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Header, Query, Response, Security

from sandbox.core.errors import RequestError
from sandbox.core.records import Verdict
from sandbox.scenario.request import Request as Wish
from workers.database.states import RunState
from workers.queue import idempotency, intake, reading, submission
from workers.queue.idempotency import Once
from workers.queue.overview import named_scenario
from workers.queue.values import RunRow, Submitted
from workers.settings import ServiceSettings
from workers.web.api.access import BEARER, ApiService, needing, service_of, token_of
from workers.web.api.models import (
    HOST,
    SCENARIO,
    TEXT,
    Accepted,
    Cursor,
    Limit,
    Page,
    Run,
    RunId,
    Submission,
)
from workers.web.api.paging import cursor_of, cut, place_of
from workers.web.auth.tokens import IssuedToken, Scope

readers = APIRouter(route_class=needing(Scope.READ), dependencies=[Security(BEARER)], tags=["runs"])
submitters = APIRouter(
    route_class=needing(Scope.SUBMIT), dependencies=[Security(BEARER)], tags=["runs"]
)
log = structlog.get_logger("sandbox.api")
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,200}$",
        description="made up by the client: the same key with the same body is the same run, "
        "for seven days",
    ),
]
Shared = Annotated[ApiService, Depends(service_of)]
Whose = Annotated[IssuedToken, Depends(token_of)]


@submitters.post("/runs", status_code=202)
def submit(
    service: Shared, token: Whose, asked: Submission, response: Response, key: Key = None
) -> Accepted:
    """Queue a rehearsal, or join an equal one that is open."""
    wanted = _once(token, key, "submit", asked.model_dump(mode="json"))
    told = idempotency.look(service.database, wanted) if wanted else None
    if told is None:  # asked for the first time: a scenario that is gone by now is no matter else
        told = queue(service, asked, origin_of(token), wanted)
    return _accepted(service, told, response)


def queue(
    service: ApiService, asked: Submission, origin: str, idempotency: Once | None = None
) -> Submitted:
    """As a form of the web asks for it, too."""
    return intake.submit(
        service.database,
        service.settings,
        _wish(asked, service.settings),
        asked.priority,
        say,
        origin=origin,
        fresh=asked.fresh,
        once=idempotency,
    )


@readers.get("/runs")
def list_runs(
    service: Shared,
    guest: Annotated[str | None, Query(pattern=TEXT)] = None,
    host: Annotated[str | None, Query(pattern=HOST)] = None,
    scenario: Annotated[str | None, Query(pattern=SCENARIO)] = None,
    verdict: Verdict | None = None,
    state: Annotated[list[RunState] | None, Query(max_length=len(RunState))] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[Run]:
    """The runs, newest first."""
    rows = reading.recent(
        service.database,
        limit + 1,
        states=tuple(state or ()),
        guest=guest,
        host=host,
        scenario=scenario,
        verdict=verdict,
        before=_before(cursor),
    )
    page, following = cut(rows, limit, lambda row: cursor_of(float(row.submitted), row.id))
    return Page(items=[Run.of(row) for row in page], next=following)


@readers.get("/runs/{run_id}")
def get_run(service: Shared, run_id: RunId) -> Run:
    """One run as it is now."""
    return Run.of(reading.get(service.database, run_id))


@submitters.post("/runs/{run_id}/cancel", status_code=202)
def cancel_run(service: Shared, token: Whose, run_id: RunId) -> Run:
    """Take it back: it is not begun, or its worker removes the clone."""
    submission.cancel(service.database, run_id, origin_of(token))
    return Run.of(reading.get(service.database, run_id))


@submitters.post("/runs/{run_id}/retry", status_code=202)
def retry_run(
    service: Shared, token: Whose, run_id: RunId, response: Response, key: Key = None
) -> Accepted:
    """The same request once more, as a run of its own."""
    wanted = _once(token, key, "retry", run_id)
    told = idempotency.look(service.database, wanted) if wanted else None
    if told is None:
        told = intake.retry(service.database, service.settings, run_id, say, once=wanted)
    return _accepted(service, told, response)


def _accepted(service: ApiService, told: Submitted, response: Response) -> Accepted:
    response.headers["Location"] = f"/v1/runs/{told.run_id}"
    run: RunRow = reading.get(service.database, told.run_id)
    return Accepted(run=Run.of(run), joined=told.joined)


def _once(token: IssuedToken, key: str | None, what: str, said: Any) -> Once | None:
    if key is None:
        return None
    text = json.dumps([what, said], sort_keys=True)
    return Once(token.id, key, hashlib.sha256(text.encode()).hexdigest())


def _before(cursor: str | None) -> tuple[float, str] | None:
    place = place_of(cursor, float, str)
    return None if place is None else (place[0], place[1])


def _wish(asked: Submission, settings: ServiceSettings) -> Wish:
    return Wish(
        scenario=named_scenario(settings, asked.scenario),
        guest=asked.guest,
        upgrade=asked.upgrade,
        user=asked.user,
        key=_key(asked.key, settings),
        host=asked.host,
    )


def _key(name: str | None, settings: ServiceSettings) -> Path | None:
    if name is None:
        return None
    if not settings.api_keys:
        raise RequestError(
            "this service lends no keys",
            "state login.key in the scenario; or SANDBOX_SERVICE_API_KEYS names a folder of keys",
        )
    return Path(settings.api_keys, name)


def origin_of(token: IssuedToken, door: str = "api") -> str:
    return f"{door} {token.name} ({token.id})"


def say(problem: str) -> None:
    log.warning("a queued run waits", problem=problem)
