"""Commands from chats and forges: no token, but the vendor's signature over the bytes that came."""

from __future__ import annotations

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from sandbox.core.errors import HostError
from workers.chat.receive import Ear, NoChannel
from workers.chat.values import NotAMessage, Refused, TooMany
from workers.web.api.problems import ProblemResponse

senders = APIRouter(prefix="/hooks", include_in_schema=False)
log = structlog.get_logger("sandbox.api")


@senders.post("/{name}")
async def receive(request: Request, name: str) -> Response:
    """What a vendor sends to a channel of chat.yaml."""
    body = await request.body()
    return await run_in_threadpool(_hear, request, name, body)


def _hear(request: Request, name: str, body: bytes) -> Response:
    ear = request.app.state.ear
    if not isinstance(ear, Ear):
        raise ProblemResponse(
            404, "this service has no chat channels", "SANDBOX_SERVICE_CHAT names a chat.yaml"
        )
    try:
        channel = ear.channel(name)
        answer = ear.hear(channel, dict(request.headers), body)
    except NoChannel as problem:
        raise ProblemResponse(404, problem.message, problem.hint) from problem
    except Refused as problem:
        peer = request.client.host if request.client else ""
        log.warning("refused", channel=name, peer=peer, why=problem.message)
        raise ProblemResponse(401, problem.message, problem.hint) from problem
    except NotAMessage as problem:
        raise ProblemResponse(400, problem.message, problem.hint) from problem
    except TooMany as problem:
        wait = {"Retry-After": str(problem.seconds)}
        raise ProblemResponse(429, problem.message, problem.hint, wait) from problem
    except HostError as problem:  # it may say where the database is
        log.warning("not answered", channel=name, problem=str(problem))
        what = "the service cannot do that now; nothing was done"
        raise ProblemResponse(503, what, "send it again", {"Retry-After": "5"}) from problem
    return Response(answer.body, media_type=answer.media_type)
