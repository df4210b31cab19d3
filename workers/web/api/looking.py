"""What there is: scenarios, hosts, guests, schedules; and whether a guest may be upgraded."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Security

from sandbox.hosts.inventory import find_host
from workers.gate import answer
from workers.queue import overview
from workers.queue.history import history
from workers.schedule import listing
from workers.web.api.access import BEARER, ApiService, needing, service_of
from workers.web.api.models import (
    HOST,
    SCENARIO,
    TEXT,
    UPGRADE,
    Check,
    Checks,
    Cursor,
    Gate,
    Guest,
    Host,
    Limit,
    Page,
    Scenario,
    Schedule,
    Schedules,
)
from workers.web.api.paging import cursor_of, cut, place_of
from workers.web.auth.tokens import Scope

readers = APIRouter(
    route_class=needing(Scope.READ), dependencies=[Security(BEARER)], tags=["what there is"]
)
Shared = Annotated[ApiService, Depends(service_of)]


@readers.get("/scenarios")
def list_scenarios(service: Shared) -> list[Scenario]:
    """Those that can be run by name."""
    return [Scenario.of(row) for row in overview.scenarios(service.settings)]


@readers.get("/hosts")
def list_hosts(service: Shared) -> list[Host]:
    """The hosts with their queues and workers."""
    return [Host.of(row) for row in overview.hosts(service.database, service.settings)]


@readers.get("/guests")
def list_guests(service: Shared, limit: Limit = 50, cursor: Cursor = None) -> Page[Guest]:
    """The guests that runs were asked for, each with its last verdict."""
    place = place_of(cursor, str, str)
    after = None if place is None else (place[0], place[1])
    rows = overview.guests(service.database, limit + 1, after)
    page, following = cut(rows, limit, lambda row: cursor_of(row.host, row.guest))
    return Page(items=[Guest.of(row) for row in page], next=following)


@readers.get("/checks")
def list_checks(
    service: Shared,
    guest: Annotated[str, Query(pattern=TEXT)],
    host: Annotated[str | None, Query(pattern=HOST)] = None,
    check: Annotated[str | None, Query(pattern=TEXT, description="a part of its name")] = None,
    limit: Limit = 50,
) -> Checks:
    """What a guest's checks did in the runs so far: how often each held, and where."""
    found = history(service.database, guest, host=host, part=check or "", limit=limit)
    return Checks(items=[Check.of(one) for one in found.items], total=found.total)


@readers.get("/schedules")
def list_schedules(service: Shared) -> Schedules:
    """The scenarios that run by themselves."""
    rows, problems = listing.schedule_rows(service.database, service.settings)
    return Schedules(items=[Schedule.of(row) for row in rows], problems=problems)


@readers.get("/gate")
def get_gate(
    service: Shared,
    scenario: Annotated[str, Query(pattern=SCENARIO)],
    guest: Annotated[str, Query(pattern=TEXT)],
    host: Annotated[str | None, Query(pattern=HOST, description="default: as `--host`'s")] = None,
    upgrade: Annotated[
        str | None, Query(pattern=UPGRADE, description="what was asked for otherwise")
    ] = None,
    max_age: Annotated[
        int | None, Query(ge=1, le=10**9, description="seconds for which a verdict counts")
    ] = None,
) -> Gate:
    """May the guest be upgraded? The newest verdict, and `allowed` only for a `pass`."""
    named = find_host(host, service.settings.sandbox).name
    decision = answer.decide(
        service.database, scenario, guest, named, upgrade=upgrade or "", max_age=max_age
    )
    return Gate.of(decision)
