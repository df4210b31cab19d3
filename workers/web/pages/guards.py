"""What a page requires: a signed-in user with the scope; a form must also come from our own page.

As in the API, the route's class enforces this, so that no route can forget it.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlsplit

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

from workers.web.api.access import Handler, allow, service_of
from workers.web.api.problems import ProblemResponse
from workers.web.auth import sessions
from workers.web.auth.tokens import IssuedToken, Scope
from workers.web.pages import rendering

COOKIE = "sandbox"
SAFE = ("GET", "HEAD")
_FORM = "application/x-www-form-urlencoded"
_FIELDS = 20  # of a form


@dataclass(frozen=True)
class Visit:
    """A signed-in user, for the time of a request."""

    token: IssuedToken
    secret: str  # of the session; for its cookie only

    @property
    def csrf(self) -> str:
        """What forms of this session carry; it tells nothing of the session's secret."""
        return hmac.new(self.secret.encode(), b"form", hashlib.sha256).hexdigest()

    @property
    def may_submit(self) -> bool:
        return self.token.scope.includes(Scope.SUBMIT)


def visit_of(request: Request) -> Visit:
    visit: Visit = request.state.visit
    return visit


def form_of(request: Request) -> dict[str, str]:
    form: dict[str, str] = request.state.form
    return form


def page(scope: Scope) -> type[APIRoute]:
    """The class of routes for people whose token has this scope."""

    class GuardedPage(APIRoute):
        needs = scope

        def get_route_handler(self) -> Handler:
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                visit = await run_in_threadpool(_visit, request)
                if visit is None:
                    return _sign_in_first(request)
                request.state.visit = visit
                request.scope["sandbox.token"] = visit.token  # for the log
                await run_in_threadpool(allow, service_of(request), visit.token, scope)
                if request.method not in SAFE:
                    await _read_form(request)
                    if not _same(form_of(request).get("csrf", ""), visit.csrf):
                        raise _not_ours()
                return await inner(request)

            return handle

    return GuardedPage


class Door(APIRoute):
    """For everybody; a form has to be of ours all the same."""

    needs = None

    def get_route_handler(self) -> Handler:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if request.method not in SAFE:
                await _read_form(request)
            return await inner(request)

        return handle


def secret_of(request: Request) -> str:
    """Of the session that the browser says it has; "" for none."""
    return request.cookies.get(cookie_of(request), "")


def cookie_of(request: Request) -> str:
    """Over TLS a name that no other site, not even one of the same domain, can set."""
    return f"__Host-{COOKIE}" if is_secure(request) else COOKIE


def is_secure(request: Request) -> bool:
    return request.url.scheme == "https"


def _visit(request: Request) -> Visit | None:
    secret = secret_of(request)
    token = sessions.find(service_of(request).database, secret) if secret else None
    return None if token is None else Visit(token, secret)


def _sign_in_first(request: Request) -> Response:
    if request.method not in SAFE:
        raise ProblemResponse(401, "you are not signed in any more", "sign in, and do it again")
    site = request.headers.get("sec-fetch-site")
    if site == "cross-site" and request.headers.get("sec-fetch-mode") == "navigate":
        # A link from elsewhere comes without our cookie, which is strict; from here it has it.
        return rendering.moment_page(request)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?next={quote(wanted)}", 303)


async def _read_form(request: Request) -> None:
    _require_own_site(request)
    if request.headers.get("content-type", "").partition(";")[0].strip() != _FORM:
        raise ProblemResponse(415, "that is no form of this site", "use the buttons of its pages")
    try:
        text = (await request.body()).decode()
        fields = parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=_FIELDS
        )  # "errors" is of what is percent-encoded
    except ValueError:  # no UTF-8, or more fields than any form of ours has
        raise ProblemResponse(
            400, "that is no form of this site", "use the buttons of its pages"
        ) from None
    request.state.form = dict(fields)


def _require_own_site(request: Request) -> None:
    """A browser says where a form comes from, and no page can make it say otherwise."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin", "")
    if site is not None:
        ours = site == "same-origin"
    else:  # over plain HTTP only loopback has that header
        ours = bool(origin) and _place(origin) == request.headers.get("host", "").lower()
    if not ours:
        raise _not_ours()


def _place(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


def _not_ours() -> ProblemResponse:
    return ProblemResponse(
        403, "this form was not sent from a page of this session", "open the page, and do it there"
    )
