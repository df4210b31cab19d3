"""What no request gets around: a limit to its body, no faults told in detail, a line in the log."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog
from starlette.responses import Response

from workers.web.api.problems import ProblemResponse

MOST_BYTES = 64 * 1024  # of a body; what is asked for is a handful of words
MOST_HOOK_BYTES = 512 * 1024  # a forge sends the whole pull request along
BODY_SECONDS = 10.0
_LONGEST_PATH = 300  # in the log
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
    (b"referrer-policy", b"no-referrer"),
)
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
log = structlog.get_logger("sandbox.api")


class Guards:
    """ASGI, around all of the application. ``answer``: how a problem is told, by what was asked."""

    def __init__(self, app: App, answer: Callable[[Scope, ProblemResponse], Response]) -> None:
        self._app = app
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        try:
            try:
                body = await asyncio.wait_for(_body(scope, receive), BODY_SECONDS)
            except TimeoutError:
                raise ProblemResponse(
                    408, "the request's body did not come", "send it again"
                ) from None
            await self._app(scope, _replayed(body, receive), answer)
        except ProblemResponse as problem:
            await self._answer(scope, problem)(scope, receive, answer)
        except Exception as fault:
            log.error("a fault of ours", **_where(fault))
            if answer.begun:
                return  # the connection is closed: half an answer does not look whole
            told = ProblemResponse(500, "a fault of this service", "its log says where; report it")
            await self._answer(scope, told)(scope, receive, answer)
        finally:
            answer.tell()


class _Answer:
    """Sends an answer with the headers that all have."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._start = time.monotonic()
        self._status = 0

    @property
    def begun(self) -> bool:
        return bool(self._status)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            stated = {name.lower() for name, _value in message["headers"]}
            ours = [header for header in _HEADERS if header[0] not in stated]
            message = {**message, "headers": [*message["headers"], *ours]}
        await self._send(message)

    def tell(self) -> None:
        """Without the query: what people look for is not the log's business."""
        token = self._scope.get("sandbox.token")
        client = self._scope.get("client")
        log.info(
            "request",
            method=self._scope["method"],
            path=self._scope["path"][:_LONGEST_PATH],
            status=self._status,
            seconds=round(time.monotonic() - self._start, 3),
            peer=client[0] if client else "",
            token=token.id if token else "",
        )


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The whole body, before it is parsed; raises :class:`ProblemResponse` for one too long."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    most = MOST_HOOK_BYTES if scope["path"].startswith("/hooks/") else MOST_BYTES
    stated = headers.get(b"content-length", b"0")
    if stated.isdigit() and int(stated) > most:
        raise _too_long(most)
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += bytes(message.get("body", b""))
        if len(body) > most:
            raise _too_long(most)
        if not message.get("more_body", False):
            return body


def _too_long(most: int) -> ProblemResponse:
    return ProblemResponse(
        413, f"the body is longer than {most >> 10} KiB", "a request is a handful of words"
    )


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _where(fault: Exception) -> dict[str, str]:
    """Enough to find it by; values, which may be secret, stay out."""
    frames = traceback.extract_tb(fault.__traceback__)
    last = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[-3:]]
    return {"kind": type(fault).__name__, "at": " > ".join(last)}
