"""The pages as one application, and which requests are theirs."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from starlette.routing import Match

from workers.web.api import problems
from workers.web.api.access import ApiService
from workers.web.api.guards import App, Receive, Scope, Send
from workers.web.api.problems import ProblemResponse
from workers.web.pages import (
    checks,
    fleet,
    login,
    overview,
    rendering,
    run,
    runs,
    static_files,
    submit,
)

ROUTERS = (
    *(
        login.doors,
        login.leaving,
        static_files.everybody,
        fleet.readers,
        runs.readers,
        run.readers,
    ),
    *(checks.readers, overview.readers, submit.submitters),
)
# What the framework says to programs, said to people: (status, detail).
_TOLD = {
    HTTPStatus.NOT_FOUND: (HTTPStatus.NOT_FOUND, "there is no such page"),
    HTTPStatus.UNPROCESSABLE_ENTITY: (HTTPStatus.NOT_FOUND, "there is no such page"),
    HTTPStatus.METHOD_NOT_ALLOWED: (HTTPStatus.METHOD_NOT_ALLOWED, "that cannot be done here"),
}


def make(service: ApiService) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    app.state.allowed = lambda _path: ()
    problems.handle(app, _answer)
    app.add_exception_handler(Exception, _answer_fault)
    for router in ROUTERS:
        app.include_router(router)
    return app


def _answer(request: Request, problem: ProblemResponse) -> Response:
    if "/v1/" in problem.hint:
        status, detail = _TOLD.get(HTTPStatus(problem.status), (problem.status, problem.detail))
        problem = ProblemResponse(status, detail, "", problem.headers)
    return rendering.problem_page(problem, getattr(request.state, "visit", None))


def _answer_fault(request: Request, _fault: Exception) -> Response:
    """It is raised once more after that: the guards log where it was."""
    return _answer(
        request, ProblemResponse(500, "a fault of this service", "its log says where; report it")
    )


class Beside:
    """ASGI: what is not the API's is the pages'."""

    def __init__(self, app: App, api: FastAPI, pages: FastAPI, prefix: str) -> None:
        self._app = app
        self._api = api
        self._pages = pages
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        theirs = scope["type"] == "http" and not self._is_of_the_api(scope)
        await (self._pages if theirs else self._app)(scope, receive, send)

    def _is_of_the_api(self, scope: Scope) -> bool:
        if is_beneath(self._prefix, scope):
            return True
        return any(one.matches(scope)[0] is not Match.NONE for one in self._api.routes)


def is_beneath(prefix: str, scope: Scope) -> bool:
    path: str = scope["path"]
    return path == prefix or path.startswith(f"{prefix}/")


def teller(prefix: str) -> Callable[[Scope, ProblemResponse], Response]:
    """How problems are told that come before or after both applications."""

    def tell(scope: Scope, problem: ProblemResponse) -> Response:
        return problem.response() if is_beneath(prefix, scope) else rendering.problem_page(problem)

    return tell
