"""The application: routes, their problems and guards, and the description of all that."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from sandbox import __version__
from sandbox.core.errors import HostError
from workers.chat.receive import Ear
from workers.database import Database
from workers.monitoring import health
from workers.settings import ServiceSettings
from workers.web.api import events, files, hooks, looking, models, problems, runs, tokens
from workers.web.api.access import ApiService
from workers.web.api.guards import Guards
from workers.web.api.limiting import Limiter
from workers.web.api.problems import MEDIA_TYPE, ProblemResponse
from workers.web.pages import application as web

PREFIX = "/v1"
THREADS = 12  # fewer than the database lets in at once
MOST_STREAMS = 200
_FRESH = 2.0  # seconds for which the service's health is not looked at again
_ALWAYS = (400, 405, 408, 413, 422, 500)
_WITH_TOKEN = (401, 403, 404, 409, 429, 503)
everybody = APIRouter(tags=["health"])
ROUTERS = (
    *(runs.submitters, runs.readers, events.readers, files.readers),
    *(looking.readers, tokens.admins, everybody),
)


def make(
    settings: ServiceSettings,
    database: Database,
    stopping: Callable[[], bool],
    ear: Ear | None = None,
) -> FastAPI:
    """``ear``: hears commands from chats."""
    app = FastAPI(
        title="Upgrade Sandbox",
        version=__version__,
        description="Rehearsals of upgrades on throwaway clones: asked for, watched, decided on.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        generate_unique_id_function=lambda route: str(route.name),
    )
    service = ApiService(
        settings, database, Limiter(settings), stopping, threading.BoundedSemaphore(MOST_STREAMS)
    )
    app.state.service = service
    app.state.health = _Health(settings, database)
    app.state.ear = ear
    problems.handle(app)
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX)
    app.include_router(hooks.senders)
    app.state.allowed = _allowed
    app.add_middleware(web.Beside, api=app, pages=web.make(service), prefix=PREFIX)
    app.add_middleware(Guards, answer=web.teller(PREFIX))
    app.openapi = lambda: _description(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(_app: FastAPI) -> AsyncIterator[None]:
    current_default_thread_limiter().total_tokens = THREADS
    yield


def _allowed(path: str) -> set[str]:
    """The methods of a path: they may be on several routes, each with a scope of its own."""
    bare = path.removeprefix(PREFIX)
    routers = (*ROUTERS, hooks.senders)
    routes = [one for router in routers for one in router.routes if isinstance(one, APIRoute)]
    return {method for one in routes if one.path_regex.match(bare) for method in one.methods or ()}


@everybody.get("/health")
def get_health(request: Request) -> models.Health:
    """Whether the service can work. It needs no token, so it reveals nothing else."""
    request.app.state.health.look()
    return models.Health(status="ok", version=__version__)


class _Health:
    """Caches the health: it needs no token, so frequent requests must not load the database."""

    def __init__(self, settings: ServiceSettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._lock = threading.Lock()
        self._until = 0.0
        self._problem = ""  # the process began with a look at the database

    def look(self) -> None:
        """One looks; the others, who may be many, are told what was seen last."""
        if time.monotonic() > self._until and self._lock.acquire(blocking=False):
            try:
                self._problem = self._looked()
                self._until = time.monotonic() + _FRESH
            finally:
                self._lock.release()
        if self._problem:
            raise ProblemResponse(503, self._problem, "its log says more", {"Retry-After": "5"})

    def _looked(self) -> str:
        try:
            health.examine(self._settings, self._database, needs_worker=False)
        except HostError as problem:
            problems.log.warning("not fit for work", problem=str(problem))
            return "the database or the broker does not answer"
        return ""


def _description(app: FastAPI) -> dict[str, Any]:
    """OpenAPI's; every operation with the problems that it may answer with."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        schemas = made["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas["Problem"] = models.Problem.model_json_schema()
        for operations in made["paths"].values():
            for operation in operations.values():
                codes = (*_ALWAYS, *(_WITH_TOKEN if "security" in operation else (503,)))
                operation["responses"].update({str(code): _problem(code) for code in codes})
                for parameter in operation.get("parameters", ()):
                    parameter["schema"] = _never_null(parameter["schema"])
        app.openapi_schema = made
    return app.openapi_schema


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that may be left out is not one that says "null"."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {**kinds[0], **{name: value for name, value in schema.items() if name != "anyOf"}}


def _problem(code: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": HTTPStatus(code).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
