"""Schedules with their last nights; hosts with what they can take, and what they have."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from workers.monitoring.pools import known_pools
from workers.queue import overview
from workers.schedule import listing, night_reports
from workers.schedule.night_summary import NightAnswer
from workers.web.api.access import service_of
from workers.web.auth.tokens import Scope
from workers.web.pages.guards import page
from workers.web.pages.rendering import show

readers = APIRouter(route_class=page(Scope.READ))
_ORDER = (NightAnswer.NO, NightAnswer.NONE, NightAnswer.WAITS, NightAnswer.YES)


@readers.get("/schedules")
def show_schedules(request: Request) -> Response:
    service = service_of(request)
    rows, problems = listing.schedule_rows(service.database, service.settings)
    values = {
        "rows": rows,
        "problems": problems,
        "nights": night_reports.last_nights(service.database),
        "answers": _ORDER,
    }
    return show(request, "schedules.html", values)


@readers.get("/hosts")
def show_hosts(request: Request) -> Response:
    service = service_of(request)
    values = {
        "hosts": list(overview.hosts(service.database, service.settings)),
        "pools": known_pools(service.database),
    }
    return show(request, "hosts.html", values)
