"""A guest's checks: what each did in the runs so far."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from workers.queue.check_histories import WORDS
from workers.queue.history import Mark, history
from workers.web.api.access import service_of
from workers.web.auth.tokens import Scope
from workers.web.pages.guards import page
from workers.web.pages.query import words
from workers.web.pages.rendering import show

ROWS = 50  # of the page
readers = APIRouter(route_class=page(Scope.READ))


@readers.get("/checks")
def show_checks(request: Request) -> Response:
    given = request.query_params
    chosen = {name: words(given, name) for name in ("guest", "host", "check")}
    found = history(
        service_of(request).database,
        chosen["guest"] or "",
        host=chosen["host"],
        part=chosen["check"] or "",
        limit=ROWS,
    )
    values = {
        "chosen": chosen,
        "found": found,
        "words": {mark.value: WORDS[mark] for mark in Mark},
    }
    return show(request, "history.html", values)
