"""What happens in a run: what there is by now, and live as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from workers.database.states import ENDED
from workers.queue import reading
from workers.queue.values import RunEvent, RunRow
from workers.web.api.access import BEARER, ApiService, needing, service_of, token_of
from workers.web.api.models import Event, Events, Limit, RunId
from workers.web.api.problems import ProblemResponse
from workers.web.auth import tokens
from workers.web.auth.tokens import IssuedToken, Scope

LOOK_EVERY = 0.5  # seconds
HEARTBEAT = 5.0  # seconds; proxies end what is silent for longer
END = "-end"  # of the last event's id: who has it has all
MEDIA_TYPE = "text/event-stream"
readers = APIRouter(
    route_class=needing(Scope.READ), dependencies=[Security(BEARER)], tags=["events"]
)
Shared = Annotated[ApiService, Depends(service_of)]
After = Annotated[int, Query(ge=0, lt=1 << 62, description="only those with a larger id")]


@readers.get("/runs/{run_id}/events")
def list_events(service: Shared, run_id: RunId, after: After = 0, limit: Limit = 200) -> Events:
    """What happened by now, oldest first."""
    run = reading.get(service.database, run_id)  # before its events: the last one is there then
    rows = reading.events_after(service.database, run_id, after, limit)
    return Events(
        items=[Event.of(row) for row in rows],
        last=rows[-1].id if rows else after,
        ended=run.state in ENDED and len(rows) < limit,
    )


@readers.get(
    "/runs/{run_id}/stream",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Server-sent events", "content": {MEDIA_TYPE: {}}},
        204: {"description": "The run has ended, and `Last-Event-ID` is its end's."},
    },
)
def stream_events(
    service: Shared,
    token: Annotated[IssuedToken, Depends(token_of)],
    run_id: RunId,
    last_event_id: Annotated[
        str | None,
        Header(pattern=r"^[0-9]{1,18}(-end)?$", description="go on after this event"),
    ] = None,
) -> Response:
    """What happens as it comes, until the run has ended: events named `state`, `phase`, `detail`,
    `check`, and at last `end` with the run's state, verdict and reason."""
    return watch(service, token, run_id, last_event_id or "0")


def watch(service: ApiService, token: IssuedToken, run_id: str, last: str) -> Response:
    """What happens in a run after the event with that id, as it comes."""
    reading.get(service.database, run_id)
    if last.endswith(END):
        return Response(status_code=204)  # a browser's EventSource asks no more
    if not service.streams.acquire(blocking=False):
        raise ProblemResponse(
            503, "too many watch at once", "ask for events as JSON", {"Retry-After": "30"}
        )
    one = _Watch(service, token, run_id, int(last))
    return _Stream(
        one.lines(), media_type=MEDIA_TYPE, headers={"X-Accel-Buffering": "no"}, watch=one
    )


class _Stream(StreamingResponse):
    """Gives its place back, however it ends: also when it was never begun."""

    def __init__(self, *arguments: object, watch: _Watch, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._watch = watch

    async def __call__(self, *asgi: object) -> None:
        try:
            await super().__call__(*asgi)  # type: ignore[arg-type]
        finally:
            self._watch.service.streams.release()


@dataclass
class _Watch:
    """One who watches a run."""

    service: ApiService
    token: IssuedToken
    run_id: str
    last: int

    async def lines(self) -> AsyncIterator[bytes]:
        with self.service.looks.watching(self.run_id):
            async for line in self._lines():
                yield line

    async def _lines(self) -> AsyncIterator[bytes]:
        told = time.monotonic()
        yield b"retry: 2000\n\n"
        while not self.service.stopping():
            run, events = await run_in_threadpool(self._look)
            for event in events:
                self.last = event.id
                yield _message(str(event.id), event.kind, Event.of(event).model_dump_json())
            if run.state in ENDED and not events:
                yield _message(f"{self.last}{END}", "end", _end(run))
                return
            if events:
                told = time.monotonic()
            elif time.monotonic() - told > HEARTBEAT:
                if not await run_in_threadpool(self._may_go_on):
                    return
                told = time.monotonic()
                yield b": still here\n\n"
            await asyncio.sleep(LOOK_EVERY)

    def _look(self) -> tuple[RunRow, tuple[RunEvent, ...]]:
        return self.service.looks.look(self.run_id, self.last)

    def _may_go_on(self) -> bool:
        return tokens.is_good(self.service.database, self.token.id)


def _message(number: str, kind: str, data: str) -> bytes:
    """``data`` is JSON, and so one line."""
    return f"id: {number}\nevent: {kind}\ndata: {data}\n\n".encode()


def _end(run: RunRow) -> str:
    verdict = run.verdict.value if run.verdict else None
    return json.dumps({"state": run.state.value, "verdict": verdict, "reason": run.reason})
