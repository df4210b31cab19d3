"""The first page: every guest, and whether it may be upgraded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from workers.database.states import ENDED
from workers.gate.fleet import FleetAnswer, Standing, fleet, pending
from workers.web.api.access import service_of
from workers.web.auth.tokens import Scope
from workers.web.pages.guards import page
from workers.web.pages.query import choice, number
from workers.web.pages.rendering import show

ROWS = 100  # of a page
readers = APIRouter(route_class=page(Scope.READ))


@dataclass(frozen=True)
class Chosen:
    """The filters that a user chose for the fleet."""

    guest: str  # a part of its name
    host: str
    scenario: str
    answer: str

    def fits(self, one: Standing) -> bool:
        return (
            self.guest.lower() in one.guest.lower()
            and self.host in ("", one.host)
            and self.scenario in ("", one.scenario)
        )


@readers.get("/")
def show_fleet(request: Request) -> Response:
    """One line a guest and scenario."""
    database = service_of(request).database
    everyone = fleet(database)
    given = request.query_params
    chosen = Chosen(
        guest=given.get("guest", "").strip(),
        host=given.get("host", ""),
        scenario=given.get("scenario", ""),
        answer=choice(given, "answer", list(FleetAnswer)),
    )
    those = [one for one in everyone if chosen.fits(one)]
    shown = [one for one in those if chosen.answer in ("", one.answer)]
    pages = max(1, -(-len(shown) // ROWS))
    at = min(number(given, "page"), pages)
    rows = shown[(at - 1) * ROWS : at * ROWS]
    values = {
        "chosen": chosen,
        "hosts": _names(one.host for one in everyone),
        "scenarios": _names(one.scenario for one in everyone),
        "counts": {answer: sum(one.answer is answer for one in those) for answer in FleetAnswer},
        "under_way": sum(_is_open(one) for one in those),
        "everyone": len(everyone),
        "rows": rows,
        "total": len(shown),
        "pending": pending(database, [one.run_id for one in rows if one.run_id]),
        "page": at,
        "pages": pages,
    }
    return show(request, "fleet.html", values)


def _is_open(one: Standing) -> bool:
    return one.newest_state is not None and one.newest_state not in ENDED


def _names(names: Iterable[str]) -> list[str]:
    return sorted(set(names))
