"""The way over HTTP: the service's API, asked so that a lost answer costs nothing."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, LocationParseError, SSLError
from urllib3.util import Retry, Timeout

from sandbox import __version__
from sandbox.core.clean_text import one_line
from sandbox.core.errors import RequestError
from sandbox.core.records import Verdict
from sandbox.scenario.request import Request
from workers.database.states import RunState, WrongState
from workers.gate.job import Job
from workers.gate.values import Away, GateEvent, GateRun
from workers.settings import ServerSettings

CONNECT = 10.0  # seconds
ANSWER = 30.0
SILENCE = 20.0  # of a stream, which says every five seconds that it is there
LONGEST_REST = 300.0  # seconds that we let a server ask us to wait
MOST = 16 << 20  # bytes of an answer
_LONGEST_LINE = 1 << 20
_AGAIN = (408, 425, 429, *range(500, 600))


class Server:
    """Implements :class:`workers.gate.values.Queue`."""

    repeatable = True

    def __init__(self, settings: ServerSettings, request: Request, job: Job, *, fresh: bool):
        self._url = settings.url
        self._token = settings.token
        self._body = body_of(request, fresh=fresh)
        self._key = job.key(self._body, fresh=fresh)
        self._patience = ANSWER

    @property
    def where(self) -> str:
        return self._url

    @property
    def in_the_clear(self) -> bool:
        """Whether others can read the token on its way."""
        parts = urlsplit(self._url)
        return parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost")

    def submit(self, turn: int) -> tuple[str, bool]:
        text = json.dumps(self._body).encode()
        key = f"{self._key}-{turn}" if turn else self._key
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        told = self._json("POST", "/runs", text, headers)
        with self._understood():
            return str(told["run"]["id"]), bool(told["joined"])

    def look(self, run_id: str) -> GateRun:
        run = self._json("GET", f"/runs/{run_id}")
        same = ("id", "scenario", "guest", "host", "reason", "phase", "waiting")
        with self._understood():
            return GateRun(
                **{name: str(run[name]) for name in same},
                state=RunState(run["state"]),
                verdict=None if run["verdict"] is None else Verdict(run["verdict"]),
                submitted=_moment(run["submitted"]) or 0.0,
                ended=_moment(run["ended"]),
            )

    def follow(self, run_id: str, last: int, seconds: float) -> Iterator[GateEvent | None]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(last)} if last else {})
        silence = max(0.1, min(SILENCE, seconds))
        answer = self._open("GET", f"/runs/{run_id}/stream", None, headers, silence)
        try:
            for kind, data in _messages(answer):
                if kind == "end":
                    return
                yield None if data is None else _heard(data)
        except HTTPError as problem:
            raise Away(f"the connection to {self._url} was lost") from problem
        finally:
            answer.close()  # an unread rest makes it useless for others

    def cancel(self, run_id: str) -> None:
        try:
            self._json("POST", f"/runs/{run_id}/cancel", b"")
        except WrongState:
            return  # it has ended: a look tells how

    def report(self, run_id: str, format: str) -> str:
        try:
            return self._whole("GET", f"/runs/{run_id}/report/{format}").decode(errors="replace")
        except WrongState as problem:
            raise Away(problem.message, problem.hint) from problem

    def hurry(self, seconds: float) -> None:
        self._patience = seconds

    def link(self, run_id: str) -> str:
        return f"{self._url}/v1/runs/{run_id}/report/html"

    # -- asking -------------------------------------------------------------------------------

    def _json(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> Any:
        data = self._whole(method, path, body, headers)
        with self._understood():
            return json.loads(data)

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError) as problem:
            raise self._no_api("what this does not understand") from problem

    def _whole(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> bytes:
        answer = self._open(method, path, body, headers, ANSWER)
        try:
            data = answer.read(MOST + 1)
        except HTTPError as problem:
            raise Away(f"the connection to {self._url} was lost") from problem
        finally:
            answer.close()
        if len(data) > MOST:
            raise self._no_api(f"more than {MOST >> 20} MiB")
        return bytes(data)

    def _open(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        silence: float,
    ) -> urllib3.BaseHTTPResponse:
        """An answer of success; all others are raised."""
        try:
            answer = self._pool.request(
                method,
                f"{self._url}/v1{path}",
                body=body,
                headers={**self._headers, **headers},
                timeout=Timeout(
                    connect=min(CONNECT, self._patience), read=min(silence, self._patience)
                ),
                redirect=False,  # a token is for whom it was given, a wish is not to become a look
                retries=False,
                preload_content=False,
            )
        except SSLError as problem:
            if isinstance(problem.args[0], ssl.SSLCertVerificationError):
                raise RequestError(
                    f"{self._url}: {one_line(problem.args[0].verify_message)}",
                    "SSL_CERT_FILE names the certificates that are trusted",
                ) from problem
            raise Away(f"{self._url} does not answer: {_why(problem)}") from problem
        except LocationParseError as problem:
            raise RequestError(f"{self._url!r} is no URL", "http://HOST:PORT") from problem
        except HTTPError as problem:
            raise Away(f"{self._url} does not answer: {_why(problem)}") from problem
        if 200 <= answer.status < 300:
            return answer
        try:
            self._refuse(answer, answer.read(_LONGEST_LINE))
        except HTTPError as problem:
            raise Away(f"the connection to {self._url} was lost") from problem
        finally:
            answer.close()
        raise AssertionError("refused above")

    def _refuse(self, answer: urllib3.BaseHTTPResponse, data: bytes) -> None:
        status, told = answer.status, _problem(data)
        detail, hint = told.get("detail", ""), told.get("hint", "")
        if status in _AGAIN:
            said = f"{self._url} answers with {status}{f': {detail}' if detail else ''}"
            raise Away(said, hint, _rest(answer.headers.get("Retry-After")))
        if 300 <= status < 400:
            where = one_line(answer.headers.get("Location") or "?")
            raise RequestError(f"{self._url} sends us on to {where}", "give that server's URL")
        if not detail:
            raise self._no_api(f"{status} and no word of this service's")
        if status == 409:
            raise WrongState(detail, hint)
        raise RequestError(detail, hint)

    def _no_api(self, what: str) -> RequestError:
        return RequestError(
            f"{self._url} answers with {what}", "is it the URL of `sandbox api`, without /v1?"
        )

    @property
    def _headers(self) -> dict[str, str]:
        agent = f"upgrade-sandbox/{__version__}"
        return {"Authorization": f"Bearer {self._token}", "User-Agent": agent}

    @cached_property
    def _pool(self) -> urllib3.PoolManager:
        """Through the proxy that the environment names."""
        parts = urlsplit(self._url)
        proxy = getproxies().get(parts.scheme)
        if proxy and not proxy_bypass(parts.hostname or ""):
            return urllib3.ProxyManager(proxy)
        return urllib3.PoolManager()


def body_of(request: Request, *, fresh: bool) -> dict[str, Any]:
    """What is asked for, in the API's words; raises :class:`RequestError` for files of ours."""
    if request.image is not None:
        raise RequestError("a server rehearses guests, no images of ours", "leave --image out")
    if "/" in request.scenario:
        raise RequestError(
            f"{request.scenario!r} is a path", "name one of the scenarios that the server has"
        )
    key = str(request.key) if request.key else None
    if key and "/" in key:
        raise RequestError(
            f"--key {key}: a server takes no file of ours",
            "name a key of its SANDBOX_SERVICE_API_KEYS, or state login.key in the scenario",
        )
    said = {
        "scenario": request.scenario,
        "guest": request.guest,
        "host": request.host,
        "upgrade": request.upgrade,
        "user": request.user,
        "key": key,
    }
    given = {name: value for name, value in said.items() if value is not None}
    return {**given, "priority": "gate", "fresh": fresh}


def _messages(answer: urllib3.BaseHTTPResponse) -> Iterator[tuple[str, Any]]:
    """Server-sent events: their names and data; ``("", None)`` for what only says "still here"."""
    rest, kind = b"", ""
    while data := answer.read1(1 << 16):  # what there is, without waiting for more
        rest += data
        *lines, rest = rest.split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise Away("the stream of events is none")
        for line in lines:
            name, _, value = line.decode(errors="replace").rstrip("\r").partition(":")
            if name == "event":
                kind = value.strip()
            elif name == "data":
                yield kind, value
            elif line.startswith(b":"):
                yield "", None


def _heard(data: str) -> GateEvent:
    try:
        told = json.loads(data)
        return GateEvent(int(told["id"]), str(told["kind"]), str(told["text"]), told["percent"])
    except (ValueError, KeyError, TypeError) as problem:
        raise Away("an event came broken") from problem


def _problem(data: bytes) -> dict[str, str]:
    try:
        told = json.loads(data)
    except ValueError:
        return {}
    if not isinstance(told, dict):
        return {}
    return {name: one_line(str(told[name])) for name in ("detail", "hint") if told.get(name)}


def _rest(text: str | None) -> float:
    if not text:
        return 0.0
    try:
        return min(LONGEST_REST, Retry().parse_retry_after(text))
    except InvalidHeader:
        return 0.0


def _moment(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()


def _why(problem: HTTPError) -> str:
    """Without the objects' names that urllib3 puts before it, which differ each time."""
    return one_line(
        str(problem).rpartition(">: ")[2].rpartition("): ")[2] or type(problem).__name__
    )
