"""Who asks, and whether they may. Decided before a request's body is looked at.

A route says with its class which scope it needs; one without such a class is for everybody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from sandbox.core.errors import HostError
from workers.database import Database
from workers.settings import ServiceSettings
from workers.web.api.limiting import Limiter
from workers.web.api.problems import ProblemResponse
from workers.web.api.watching import Looks
from workers.web.auth import tokens
from workers.web.auth.tokens import IssuedToken, Scope, TokenState

# For the description only: what is asked for is looked at below.
BEARER = HTTPBearer(auto_error=False, description="`sandbox token create` makes one")
TRUSTED = 3600.0  # seconds that a token which was good is let in from an address of failures
_HOW = "send Authorization: Bearer TOKEN; `sandbox token create` makes one"
_MOST_KNOWN = 10_000
log = structlog.get_logger("sandbox.api")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass
class ApiService:
    """What all requests share."""

    settings: ServiceSettings
    database: Database
    limiter: Limiter
    stopping: Callable[[], bool]
    streams: threading.BoundedSemaphore
    known: dict[str, float] = field(
        default_factory=dict
    )  # digests of tokens -> when they were good
    looks: Looks = field(init=False)

    def __post_init__(self) -> None:
        self.looks = Looks(self.database)


def service_of(request: Request) -> ApiService:
    service: ApiService = request.app.state.service
    return service


def token_of(request: Request) -> IssuedToken:
    token: IssuedToken = request.state.token
    return token


def needing(scope: Scope) -> type[APIRoute]:
    """The class of routes that need a token of this scope."""

    class Guarded(APIRoute):
        needs = scope

        def get_route_handler(self) -> Handler:
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                request.state.token = await run_in_threadpool(admit, request, scope)
                return await inner(request)

            return handle

    return Guarded


def admit(request: Request, scope: Scope) -> IssuedToken:
    """The token of a request; raises :class:`ProblemResponse` when it lacks the scope."""
    service = service_of(request)
    token = known(service, _given(request), peer_of(request))
    request.scope["sandbox.token"] = token  # for the log
    allow(service, token, scope)
    return token


def allow(service: ApiService, token: IssuedToken, scope: Scope) -> None:
    """Count the request; raises :class:`ProblemResponse` for one too many or without the scope."""
    wait = service.limiter.hit(service.limiter.requests, token.id)
    if wait:
        most = service.settings.api_rate
        raise _too_many(f"this token has {most} requests a minute", wait)
    if not token.scope.includes(scope):
        raise ProblemResponse(
            403,
            f"this needs the scope {scope.value}, the token {token.name!r} has {token.scope.value}",
            f"sandbox token create --scope {scope.value} makes one that may",
            _challenge(f'error="insufficient_scope", scope="{scope.value}"'),
        )


def peer_of(request: Request) -> str:
    return request.client.host if request.client else ""


def _given(request: Request) -> str:
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not text.strip():
        raise ProblemResponse(401, "this needs a token", _HOW, _challenge())
    return text.strip()


def known(service: ApiService, text: str, peer: str) -> IssuedToken:
    """The token of this text. Refusals limit the rate of an address, so that a token cannot be
    guessed; a token that was good lately is exempt."""
    limiter, digest = service.limiter, tokens.digest(text)
    if service.known.get(digest, -TRUSTED) <= time.monotonic() - TRUSTED:
        wait = limiter.full(limiter.failures, peer)
        if wait:
            raise _too_many("too many tokens from this address were refused", wait)
    try:
        token = tokens.find(service.database, text)
        if token is not None and token.state is TokenState.GOOD:
            tokens.note_use(service.database, token)
            if len(service.known) >= _MOST_KNOWN:
                service.known.clear()
            service.known[digest] = time.monotonic()
            return token
    except HostError as problem:  # its text may reveal the database's address
        log.warning("not answered", problem=str(problem))
        raise ProblemResponse(
            503, "the database does not answer", "try again", {"Retry-After": "5"}
        ) from problem
    why = f"is {token.state.value}" if token else "is none of this service's"
    log.warning("token refused", peer=peer, token=token.id if token else "", why=why)
    wait = limiter.hit(limiter.failures, peer)
    if wait:
        raise _too_many("too many tokens from this address were refused", wait)
    raise ProblemResponse(401, f"the token {why}", _HOW, _challenge('error="invalid_token"'))


def _challenge(more: str = "") -> dict[str, str]:
    return {"WWW-Authenticate": f'Bearer realm="sandbox"{", " if more else ""}{more}'}


def _too_many(what: str, seconds: int) -> ProblemResponse:
    return ProblemResponse(429, what, f"wait for {seconds} s", {"Retry-After": str(seconds)})
