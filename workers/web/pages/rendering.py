"""Values to pages. Jinja escapes all of them, and the policy lets run nothing but our script."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment

from sandbox.core.wording import duration
from sandbox.report.html import environment
from workers.web.api.problems import ProblemResponse, clean
from workers.web.pages import static_files

if TYPE_CHECKING:
    from workers.web.pages.guards import Visit

TEMPLATES = Path(__file__).parent / "templates"
HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "style-src 'self'",
            "script-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",  # pictures of the guest's screen, looked at before
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    # Not "no-referrer": then browsers do not say either where a form comes from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def show(
    request: Request, template: str, values: Mapping[str, Any], status: int = 200
) -> HTMLResponse:
    """A page for the signed-in user; before the sign-in, a page without a user."""
    visit = getattr(request.state, "visit", None)
    return _page(template, status, {"visit": visit, "here": request.url.path, **values})


def problem_page(problem: ProblemResponse, visit: Visit | None = None) -> HTMLResponse:
    values = {
        "visit": visit,
        "here": "",
        "status": problem.status,
        "title": HTTPStatus(problem.status).phrase,
        "detail": clean(problem.detail),
        "hint": clean(problem.hint),
    }
    challenge = "www-authenticate"  # a browser would ask for a password that there is not
    kept = {name: one for name, one in problem.headers.items() if name.lower() != challenge}
    return _page("problem.html", problem.status, values, kept)


def moment_page(request: Request) -> HTMLResponse:
    """Sends the browser to where it is, as from here."""
    query = f"?{request.url.query}" if request.url.query else ""
    again = quote(request.url.path, safe="/") + query
    return _page("moment.html", 200, {"visit": None, "here": "", "again": again})


def _page(
    template: str, status: int, values: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> HTMLResponse:
    text = _environment().get_template(template).render(now=time.time(), **values)
    # A guest's text may hold what is no character at all.
    return HTMLResponse(
        text.encode(errors="replace"), status, headers={**HEADERS, **(headers or {})}
    )


@cache
def _environment() -> Environment:
    made = environment(TEMPLATES).overlay()
    made.filters = made.filters | {"ago": _ago, "iso": _iso, "query": _query}
    made.globals = made.globals | {"asset": static_files.url}
    return made


def _ago(moment: float, now: float) -> str:
    """ "3 d ago"; what lies ahead is "in 3 d"."""
    seconds = abs(now - moment)
    days = int(seconds // 86400)
    words = f"{days} d" if days > 1 else duration(seconds) if seconds >= 60 else "a moment"
    if 3600 <= seconds < 2 * 86400:
        words = f"{int(seconds // 3600)} h"
    return f"{words} ago" if moment <= now else f"in {words}"


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _query(values: Mapping[str, Any], **otherwise: Any) -> str:
    """The same page with other parameters; what is empty is left out."""
    return urlencode([(name, one) for name, one in {**values, **otherwise}.items() if one])
