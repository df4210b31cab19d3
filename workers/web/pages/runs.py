"""All runs, newest first."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from sandbox.core.records import Verdict
from workers.database.states import RunState
from workers.queue import reading
from workers.web.api.access import service_of
from workers.web.api.paging import cursor_of, cut, place_of
from workers.web.auth.tokens import Scope
from workers.web.pages.guards import page
from workers.web.pages.query import choice, words
from workers.web.pages.rendering import show

ROWS = 50  # of a page
readers = APIRouter(route_class=page(Scope.READ))


@readers.get("/runs")
def show_runs(request: Request) -> Response:
    given = request.query_params
    verdict = choice(given, "verdict", list(Verdict))
    state = choice(given, "state", list(RunState))
    place = place_of(given.get("cursor") or None, float, str)
    chosen = {name: words(given, name) for name in ("guest", "host", "scenario", "night")}
    rows = reading.recent(
        service_of(request).database,
        ROWS + 1,
        states=(RunState(state),) if state else (),
        verdict=Verdict(verdict) if verdict else None,
        before=None if place is None else (place[0], place[1]),
        **chosen,
    )
    shown, following = cut(rows, ROWS, lambda row: cursor_of(float(row.submitted), row.id))
    values = {
        "rows": shown,
        "chosen": {**chosen, "verdict": verdict, "state": state},
        "following": following,
        "is_first": place is None,
        "verdicts": list(Verdict),
        "states": list(RunState),
    }
    return show(request, "runs.html", values)
