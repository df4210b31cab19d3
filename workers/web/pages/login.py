"""The way in and out: a token opens a session, which ends with it, after hours, or on demand."""

from __future__ import annotations

import re

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from workers.web.api.access import known, peer_of, service_of
from workers.web.api.problems import ProblemResponse
from workers.web.auth import sessions
from workers.web.auth.tokens import Scope
from workers.web.pages.guards import Door, cookie_of, form_of, is_secure, page, secret_of
from workers.web.pages.rendering import show

HOME = "/"
# A path of ours: "//host" and "/\host" are places elsewhere.
_PATH = re.compile(r"/(?:[A-Za-z0-9._~%?&=+-][A-Za-z0-9._~%?&=+/:@,-]*)?")
doors = APIRouter(route_class=Door)


@doors.get("/login")
def show_login(request: Request) -> Response:
    return show(request, "login.html", {"problem": "", "next": _next(request)})


@doors.post("/login")
def log_in(request: Request) -> Response:
    """With a token that is good; a wrong one is counted as the API counts it."""
    service, text = service_of(request), form_of(request).get("token", "").strip()
    onward = _path(form_of(request).get("next", ""))
    try:
        token = known(service, text, peer_of(request))
    except ProblemResponse as problem:
        if problem.status != 401:
            raise
        told = "That is no token of this service, or it is not good any more."
        return show(request, "login.html", {"problem": told, "next": onward}, 401)
    request.scope["sandbox.token"] = token  # for the log
    sessions.end(service.database, secret_of(request))  # the browser's previous session
    secret = sessions.begin(service.database, token)
    answer = RedirectResponse(onward, 303)
    _set_cookie(request, answer, secret, int(sessions.LIFETIME))
    return answer


leaving = APIRouter(route_class=page(Scope.READ))


@leaving.post("/logout")
def log_out(request: Request) -> Response:
    sessions.end(service_of(request).database, secret_of(request))
    answer = RedirectResponse("/login", 303)
    _set_cookie(request, answer, "", 0)
    return answer


def _set_cookie(request: Request, answer: Response, secret: str, seconds: int) -> None:
    answer.set_cookie(
        cookie_of(request),
        secret,
        max_age=seconds,
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="strict",
    )


def _next(request: Request) -> str:
    return _path(request.query_params.get("next", ""))


def _path(text: str) -> str:
    return text if _PATH.fullmatch(text) else HOME
