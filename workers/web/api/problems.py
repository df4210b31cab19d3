"""What goes wrong, told as RFC 9457 has it: never a traceback, never a secret.

Also for what the framework refuses by itself: unknown paths, wrong methods, bodies of another form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from sandbox.core.errors import HostError, RequestError, SandboxError
from workers.artifacts.places import NoSuchFile
from workers.artifacts.reports import NoReport
from workers.database.states import WrongState
from workers.logs import without_secrets
from workers.queue.values import NoSuchRun
from workers.web.auth.tokens import NoSuchToken

MEDIA_TYPE = "application/problem+json"
_SHOWN = 5  # mistakes of one request
_LONGEST = 1000  # characters of a text
_HINTS = {
    400: "send JSON in UTF-8, as /v1/openapi.json describes it",
    404: "/v1/openapi.json lists all paths",
    405: "/v1/openapi.json says which methods a path has",
}
log = structlog.get_logger("sandbox.api")


class ProblemResponse(Exception):
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
            "detail": clean(self.detail),
            "hint": clean(self.hint),
            **self.more,
        }
        return Response(json.dumps(said), self.status, media_type=MEDIA_TYPE, headers=self.headers)


def clean(text: str) -> str:
    return without_secrets(text)[:_LONGEST].encode(errors="replace").decode()


def of_ours(problem: SandboxError) -> ProblemResponse:
    """The type says whose fault it is, and so the status."""
    match problem:
        case NoSuchRun() | NoSuchToken() | NoSuchFile() | NoReport():
            return ProblemResponse(404, problem.message, problem.hint)
        case WrongState():
            return ProblemResponse(409, problem.message, problem.hint)
        case RequestError():
            return ProblemResponse(422, problem.message, problem.hint)
        case HostError():
            return ProblemResponse(503, problem.message, problem.hint, {"Retry-After": "5"})
    return ProblemResponse(500, problem.message, problem.hint)


Answer = Callable[[Request, ProblemResponse], Response]


def as_json(_request: Request, problem: ProblemResponse) -> Response:
    return problem.response()


def handle(app: FastAPI, answer: Answer = as_json) -> None:
    """All that endpoints and the framework raise."""

    def handler(request: Request, raised: Exception) -> Response:
        return answer(request, _problem_of(request, raised))

    for kind in (ProblemResponse, SandboxError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handler)


def _problem_of(request: Request, raised: Exception) -> ProblemResponse:
    match raised:
        case ProblemResponse():
            return raised
        case SandboxError():
            if isinstance(raised, HostError):
                log.warning("not answered", problem=str(raised))
            return of_ours(raised)
        case RequestValidationError():
            return _invalid(raised)
    assert isinstance(raised, HTTPException)
    return _of_http(request, raised)


def _invalid(raised: RequestValidationError) -> ProblemResponse:
    mistakes: Sequence[Any] = raised.errors()
    told = [
        {"where": clean(".".join(map(str, one["loc"])))[:200], "what": clean(str(one["msg"]))}
        for one in mistakes[:_SHOWN]
    ]
    said = "; ".join(f"{one['where']}: {one['what']}" for one in told)
    hint = "/v1/openapi.json describes what is understood; nothing was done"
    return ProblemResponse(422, said, hint, errors=told)


def _of_http(request: Request, raised: HTTPException) -> ProblemResponse:
    detail = f"{request.method} {request.url.path}: {raised.detail}"
    headers = dict(raised.headers or {})
    if raised.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = sorted(request.app.state.allowed(request.url.path))
        headers = {"Allow": ", ".join(allowed)} if allowed else headers
    hint = _HINTS.get(raised.status_code, "")
    return ProblemResponse(raised.status_code, detail, hint, headers)
