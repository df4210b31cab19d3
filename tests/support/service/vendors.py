"""The other side of chat for tests: one server on loopback that behaves, as far as it is asked, as
Slack's Web API, Mattermost's and GitHub's and GitLab's REST, and somebody's webhook are documented
to. It keeps what it is told, and can be told to be slow, to refuse, and to break off."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote

BOT_TOKEN = "xoxb-0123456789-abcdefghijkl"
HEAD = "6dcb09b5b57875f334f61aebed695e2e4193db5e"
REPOSITORY = "octo/infra"


@dataclass
class Message:
    """What stands there now, and what it said before."""

    place: dict[str, Any]
    texts: list[str] = field(default_factory=list)
    blocks: list[Any] = field(default_factory=list)


@dataclass
class Said:
    status: int
    data: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Vendors:
    """``trouble``: asked before each request; what it returns is the answer."""

    port: int = 0
    messages: dict[str, Message] = field(default_factory=dict)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)  # webhooks
    requests: list[tuple[str, str]] = field(default_factory=list)
    trouble: Callable[[str, str], Said | None] = lambda _method, _path: None
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, **place: Any) -> list[Message]:
        """The messages in a place."""
        with self.lock:
            found = list(self.messages.values())
        return [one for one in found if place.items() <= one.place.items()]

    def new(self, kind: str, place: dict[str, Any], text: str, blocks: Any = None) -> str:
        number = str(1000 + len(self.messages))
        self.messages[f"{kind} {number}"] = Message({"kind": kind, **place}, [text], [blocks])
        return number

    def edit(self, kind: str, number: str, text: str, blocks: Any = None) -> bool:
        message = self.messages.get(f"{kind} {number}")
        if message is None:
            return False
        message.texts.append(text)
        message.blocks.append(blocks)
        return True


ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Said]]] = []
Handle = Callable[..., Said]


def route(method: str, pattern: str) -> Callable[[Handle], Handle]:
    def keep(handle: Handle) -> Handle:
        ROUTES.append((method, re.compile(pattern), handle))
        return handle

    return keep


# -- Slack ------------------------------------------------------------------------------------


@route("POST", r"/slack/chat\.postMessage")
def slack_post(there: Vendors, data: dict[str, Any], token: str) -> Said:
    if token != f"Bearer {BOT_TOKEN}":
        return Said(200, {"ok": False, "error": "invalid_auth"})
    if data["channel"] == "C0ALIEN":
        return Said(200, {"ok": False, "error": "not_in_channel"})
    place = {"channel": data["channel"], "thread": data.get("thread_ts")}
    number = there.new("slack", place, data["text"], _list(data["blocks"]))
    stamp = f"1700000000.{number}"
    return Said(200, {"ok": True, "channel": data["channel"], "ts": stamp, "message": {}})


@route("POST", r"/slack/chat\.update")
def slack_update(there: Vendors, data: dict[str, Any], token: str) -> Said:
    number = data["ts"].rpartition(".")[2]
    if not there.edit("slack", number, data["text"], _list(data["blocks"])):
        return Said(200, {"ok": False, "error": "message_not_found"})
    return Said(200, {"ok": True, "channel": data["channel"], "ts": data["ts"], "text": ""})


def _list(blocks: Any) -> Any:
    return json.loads(blocks) if isinstance(blocks, str) else blocks


# -- Mattermost -------------------------------------------------------------------------------


@route("POST", r"/mattermost/api/v4/posts")
def mattermost_post(there: Vendors, data: dict[str, Any], token: str) -> Said:
    if token != f"Bearer {BOT_TOKEN}":
        return Said(401, {"id": "api.context.session_expired.app_error", "message": "no"})
    number = there.new("mattermost", {"channel": data["channel_id"]}, data["message"])
    return Said(201, {"id": f"post{number}", "message": data["message"]})


@route("PUT", r"/mattermost/api/v4/posts/post(\d+)/patch")
def mattermost_patch(there: Vendors, data: dict[str, Any], token: str, number: str) -> Said:
    if not there.edit("mattermost", number, data["message"]):
        return Said(404, {"id": "store.sql_post.get.app_error"})
    return Said(200, {"id": f"post{number}"})


# -- GitHub -----------------------------------------------------------------------------------


def _repository(there: Vendors) -> str:
    return f"{there.url}/github/repos/{REPOSITORY}"


@route("GET", rf"/github/repos/{REPOSITORY}/pulls/(\d+)")
def github_pull(there: Vendors, data: Any, token: str, number: str) -> Said:
    if token != f"token {BOT_TOKEN}":
        return Said(401, {"message": "Bad credentials"})
    base = _repository(there)
    return Said(
        200,
        {
            "url": f"{base}/pulls/{number}",
            "issue_url": f"{base}/issues/{number}",
            "number": int(number),
            "head": {"sha": HEAD, "ref": "change"},
        },
    )


@route("POST", rf"/github/repos/{REPOSITORY}/statuses/([0-9a-f]{{40}})")
def github_status(there: Vendors, data: dict[str, Any], token: str, sha: str) -> Said:
    if data["state"] not in ("error", "failure", "pending", "success"):
        return Said(422, {"message": "Validation Failed"})
    if len(data["description"]) > 140:
        return Said(422, {"message": "description is too long (maximum is 140 characters)"})
    there.statuses.append({"forge": "github", "sha": sha, **data})
    return Said(201, {"id": len(there.statuses), "state": data["state"]})


@route("POST", rf"/github/repos/{REPOSITORY}/issues/(\d+)/comments")
def github_comment(there: Vendors, data: dict[str, Any], token: str, number: str) -> Said:
    made = there.new("github", {"number": int(number)}, data["body"])
    return Said(201, _comment(there, made))


@route("GET", rf"/github/repos/{REPOSITORY}/issues/comments/(\d+)")
def github_get(there: Vendors, data: Any, token: str, number: str) -> Said:
    if f"github {number}" not in there.messages:
        return Said(404, {"message": "Not Found"})
    return Said(200, _comment(there, number))


@route("PATCH", rf"/github/repos/{REPOSITORY}/issues/comments/(\d+)")
def github_edit(there: Vendors, data: dict[str, Any], token: str, number: str) -> Said:
    if not there.edit("github", number, data["body"]):
        return Said(404, {"message": "Not Found"})
    return Said(200, _comment(there, number))


def _comment(there: Vendors, number: str) -> dict[str, Any]:
    return {"id": int(number), "url": f"{_repository(there)}/issues/comments/{number}", "body": ""}


# -- GitLab -----------------------------------------------------------------------------------

GITLAB_REFUSES = (("pending", "pending"), ("running", "running"), ("running", "pending"))
GITLAB = rf"/gitlab/api/v4/projects/{REPOSITORY}"


@route("POST", rf"{GITLAB}/statuses/([0-9a-f]{{40}})")
def gitlab_status(there: Vendors, data: dict[str, Any], token: str, sha: str) -> Said:
    if token != BOT_TOKEN:
        return Said(401, {"message": "401 Unauthorized"})
    if data["state"] not in ("pending", "running", "success", "failed", "canceled"):
        return Said(400, {"error": "state does not have a valid value"})
    mine = [
        one for one in there.statuses if one["forge"] == "gitlab" and one["name"] == data["name"]
    ]
    now = mine[-1]["state"] if mine else ""
    if (now, data["state"]) in (
        ("pending", "pending"),
        ("running", "running"),
        ("running", "pending"),
    ):
        event = {"pending": "enqueue", "running": "run"}[data["state"]]
        why = f"Cannot transition status via :{event} from :{now}"
        return Said(400, {"message": f'{why} (Reason(s): Status cannot transition via "{event}")'})
    there.statuses.append({"forge": "gitlab", "sha": sha, **data})
    return Said(201, {"id": len(there.statuses), "sha": sha, "status": data["state"]})


@route("POST", rf"{GITLAB}/merge_requests/(\d+)/notes")
def gitlab_note(there: Vendors, data: dict[str, Any], token: str, number: str) -> Said:
    made = there.new("gitlab", {"number": int(number)}, data["body"])
    return Said(201, {"id": int(made), "body": data["body"]})


@route("PUT", rf"{GITLAB}/merge_requests/(\d+)/notes/(\d+)")
def gitlab_edit(there: Vendors, data: dict[str, Any], token: str, number: str, note: str) -> Said:
    if not there.edit("gitlab", note, data["body"]):
        return Said(404, {"message": "404 Not found"})
    return Said(200, {"id": int(note), "body": data["body"]})


# -- the server -------------------------------------------------------------------------------


@contextlib.contextmanager
def vendors() -> Iterator[Vendors]:
    there = Vendors()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length)
            path = unquote(self.path.partition("?")[0])
            with there.lock:
                there.requests.append((self.command, path))
                trouble = there.trouble
            said = trouble(self.command, path) or self._said(path, body)
            text = json.dumps(said.data).encode()
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_PATCH = _any

        def _said(self, path: str, body: bytes) -> Said:
            with there.lock:
                if path == "/webhook":
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    there.received.append((headers, body))
                    return Said(200, {})
                token = self.headers.get("authorization") or self.headers.get("private-token") or ""
                for method, pattern, handle in ROUTES:
                    found = pattern.fullmatch(path)
                    if found and method == self.command:
                        return handle(there, self._data(body), token, *found.groups())
            return Said(404, {"message": f"no {self.command} {path}"})

        def _data(self, body: bytes) -> Any:
            if "json" in (self.headers.get("content-type") or ""):
                return json.loads(body)
            return dict(parse_qsl(body.decode()))

        def log_message(self, *_arguments: object) -> None:
            """Not on the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        there.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield there
        finally:
            server.shutdown()
            thread.join()
