"""What goes wrong, told as RFC 9457 has it: never a traceback, never a secret.

Also for what the framework refuses by itself: unknown paths, wrong methods, bodies of another form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from sandbox.errors import HostError, RequestError, SandboxError
from workers.artifacts import NoSuchFile
from workers.ledger.values import NoSuchRun
from workers.logs import without_secrets
from workers.reporting import NoReport
from workers.states import WrongState
from workers.tokens import NoSuchToken

MEDIA_TYPE = "application/problem+json"
_SHOWN = 5  # mistakes of one request
_LONGEST = 1000  # characters of a text
_HINTS = {
    400: "send JSON in UTF-8, as /v1/openapi.json describes it",
    404: "/v1/openapi.json lists all paths",
    405: "/v1/openapi.json says which methods a path has",
}
log = structlog.get_logger("sandbox.api")


class Problem(Exception):
    """An answer that is no success, with what to do about it."""

    def __init__(
        self,
        status: int,
        detail: str,
        hint: str = "",
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.hint = hint
        self.headers = dict(headers or {})
        self.more = more

    def response(self) -> Response:
        """Members beyond those of the RFC: ``hint``, and ``errors`` of a body's parts."""
        said = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": _clean(self.detail),
            "hint": _clean(self.hint),
            **self.more,
        }
        return Response(json.dumps(said), self.status, media_type=MEDIA_TYPE, headers=self.headers)


def _clean(text: str) -> str:
    return without_secrets(text)[:_LONGEST].encode(errors="replace").decode()


def of_ours(problem: SandboxError) -> Problem:
    """The type says whose fault it is, and so the status."""
    match problem:
        case NoSuchRun() | NoSuchToken() | NoSuchFile() | NoReport():
            return Problem(404, problem.message, problem.hint)
        case WrongState():
            return Problem(409, problem.message, problem.hint)
        case RequestError():
            return Problem(422, problem.message, problem.hint)
        case HostError():
            return Problem(503, problem.message, problem.hint, {"Retry-After": "5"})
    return Problem(500, problem.message, problem.hint)


def handle(app: FastAPI) -> None:
    """All that endpoints and the framework raise."""
    app.add_exception_handler(Problem, _answer)
    app.add_exception_handler(SandboxError, _answer_ours)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)


def _answer(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    return problem.response()


def _answer_ours(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, SandboxError)
    if isinstance(problem, HostError):
        log.warning("not answered", problem=str(problem))
    return of_ours(problem).response()


def _answer_invalid(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, RequestValidationError)
    mistakes: Sequence[Any] = problem.errors()
    told = [
        {"where": _clean(".".join(map(str, one["loc"])))[:200], "what": _clean(str(one["msg"]))}
        for one in mistakes[:_SHOWN]
    ]
    said = "; ".join(f"{one['where']}: {one['what']}" for one in told)
    hint = "/v1/openapi.json describes what is understood; nothing was done"
    return Problem(422, said, hint, errors=told).response()


def _answer_http(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    detail = f"{request.method} {request.url.path}: {problem.detail}"
    headers = dict(problem.headers or {})
    if problem.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = sorted(request.app.state.allowed(request.url.path))
        headers = {"Allow": ", ".join(allowed)} if allowed else headers
    hint = _HINTS.get(problem.status_code, "")
    return Problem(problem.status_code, detail, hint, headers).response()
