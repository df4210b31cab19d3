"""Chat for tests: channels of every kind, and what their vendors send, signed by vendors' SDKs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from slack_sdk.signature import SignatureVerifier
from standardwebhooks.webhooks import Webhook

from sandbox.core.settings import Settings, shipped_scenarios
from tests.support.service.vendors import BOT_TOKEN, HEAD, REPOSITORY
from workers.chat.config import read_chat
from workers.chat.values import Chat
from workers.settings import ServiceSettings, read_service_settings

SLACK_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
WORD = "a-secret-word-of-the-forge"
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MATTERMOST_TOKEN = "nezum4kpu3faiec7r7c5zt6tfy"
LINK = "https://sandbox.example.org/runs/{run}"
OPERATOR, READER, STRANGER = "U012AB3CD", "U0READER0", "U0STRANGE"
FORGE_OPERATOR, FORGE_STRANGER = 583231, 666

_ROLES = """
    roles:
      - users: [{operator}]
        may: [read, submit, cancel]
        guests: ['*']
        scenarios: [security, kernel]
      - {{users: [{reader}], may: [read], guests: [web01, 'db*'], scenarios: ['*']}}
"""
_CHANNELS = """
link: {link}
channels:
  - name: ops
    kind: slack
    secret: {folder}/slack_secret
    token: {folder}/bot_token
    url: {url}/slack/
    user: admin
    key: {folder}/word
    host: xen1{chat}
  - name: town
    kind: mattermost
    secret: {folder}/mattermost_token
    token: {folder}/bot_token
    url: {url}/mattermost
    host: xen1{chat}
  - name: bridge
    kind: webhook
    secret: {folder}/standard_secret
    url: {url}/webhook
    host: xen1{chat}
  - name: hub
    kind: github
    secret: {folder}/word
    token: {folder}/bot_token
    url: {url}/github
    repositories: [{repository}]
    host: xen1{forge}
  - name: lab
    kind: gitlab
    secret: {folder}/word
    token: {folder}/bot_token
    url: {url}/gitlab
    repositories: [{repository}]
    host: xen1{forge}
  - name: lab-signed
    kind: gitlab
    secret: {folder}/standard_secret
    token: {folder}/bot_token
    url: {url}/gitlab
    repositories: [{repository}]
    host: xen1{forge}
"""


def write_chat(folder: Path, url: str) -> Path:
    """chat.yaml and the files of its secrets."""
    for name, text in (
        ("slack_secret", SLACK_SECRET),
        ("bot_token", BOT_TOKEN),
        ("mattermost_token", MATTERMOST_TOKEN),
        ("standard_secret", STANDARD_SECRET),
        ("word", WORD),
    ):
        (folder / name).write_text(f"{text}\n")
    text = _CHANNELS.format(
        link=LINK,
        folder=folder,
        url=url,
        repository=REPOSITORY,
        chat=_ROLES.format(operator=OPERATOR, reader=READER),
        forge=_ROLES.format(operator=FORGE_OPERATOR, reader=1),
    )
    path = folder / "chat.yaml"
    path.write_text(text)
    return path


def chat_of(folder: Path, url: str) -> Chat:
    return read_chat(write_chat(folder, url))


def service_settings(folder: Path) -> ServiceSettings:
    """With scenarios and a host, so that a wish could become a run; nobody is there to wake."""
    hosts = folder / "hosts.yaml"
    hosts.write_text("hosts:\n  - {name: xen1, uri: 'xen:///system'}\n")
    settings = Settings(state=folder, hosts=hosts, scenarios=(shipped_scenarios(),))
    given = {"SANDBOX_SERVICE_BROKER": f"redis+socket://{folder}/none.sock"}
    return read_service_settings(given, settings)


# -- what vendors send ------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """A request of a vendor's."""

    channel: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"/hooks/{self.channel}"


_numbers = iter(range(1, 10**9))


def slash(text: str, user: str = OPERATOR, channel: str = "C0OPS", at: float | None = None) -> Sent:
    said = {
        "token": "legacy",
        "team_id": "T0001",
        "channel_id": channel,
        "user_id": user,
        "user_name": "anna",
        "command": "/sandbox",
        "text": text,
        "trigger_id": f"13345224609.738474920.{next(_numbers)}",
        "api_app_id": "A123456",
        "response_url": "https://hooks.slack.example.org/commands/1234/5678",
    }
    return slack_signed(urlencode(said).encode(), "application/x-www-form-urlencoded", at)


def mention(text: str, user: str = OPERATOR, **more: Any) -> Sent:
    event = {
        "type": "app_mention",
        "user": user,
        "text": f"<@U0LAN0Z89> {text}",
        "ts": "1515449522.000016",
        "channel": "C0OPS",
        "event_ts": "1515449522000016",
        **more,
    }
    said = {
        "type": "event_callback",
        "team_id": "T0001",
        "event": event,
        "event_id": f"Ev{next(_numbers):010}",
    }
    return slack_signed(json.dumps(said).encode(), "application/json")


def slack_signed(body: bytes, media_type: str, at: float | None = None) -> Sent:
    """By Slack's own SDK."""
    stamp = str(int(time.time() if at is None else at))
    signature = SignatureVerifier(SLACK_SECRET).generate_signature(timestamp=stamp, body=body)
    assert signature is not None
    headers = {
        "Content-Type": media_type,
        "X-Slack-Request-Timestamp": stamp,
        "X-Slack-Signature": signature,
    }
    return Sent("ops", body, headers)


def mattermost(text: str, user: str = OPERATOR, token: str = MATTERMOST_TOKEN) -> Sent:
    said = {
        "channel_id": "jux16pkewjrkfj3ehep1psxyxc",
        "channel_name": "town-square",
        "command": "/sandbox",
        "team_id": "carya1qs77bemjup96ff538snh",
        "text": text,
        "token": token,
        "user_id": user,
        "user_name": "anna",
        "trigger_id": f"trigger{next(_numbers)}",
        "response_url": "http://10.0.0.5/x",
    }
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Authorization": f"Token {token}",
    }
    return Sent("town", urlencode(said).encode(), headers)


def webhook(text: str, user: str = OPERATOR, at: float | None = None) -> Sent:
    return standard_signed("bridge", {"user": user, "text": text}, at)


def standard_signed(
    channel: str, data: Any, at: float | None = None, more: Mapping[str, str] | None = None
) -> Sent:
    """By the library of Standard Webhooks."""
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    number = f"msg_{next(_numbers)}"
    signature = Webhook(STANDARD_SECRET).sign(number, moment, body.decode())
    headers = {
        "Content-Type": "application/json",
        "webhook-id": number,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": signature,
        **(more or {}),
    }
    return Sent(channel, body, headers)


def github(text: str, user: int = FORGE_OPERATOR, **more: Any) -> Sent:
    said: dict[str, Any] = {
        "action": "created",
        "issue": {"number": 7, "pull_request": {"url": "https://api.github.com/x"}, "body": "…"},
        "comment": {
            "id": next(_numbers),
            "body": text,
            "user": {"login": "octocat", "id": user},
            "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "repository": {"full_name": REPOSITORY},
    }
    return github_signed(json.dumps(_with(said, more)).encode())


def github_signed(body: bytes, event: str = "issue_comment") -> Sent:
    import hashlib
    import hmac

    signature = hmac.new(WORD.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": f"72d3162e-cc78-11e3-81ab-{next(_numbers):012}",
        "X-Hub-Signature-256": f"sha256={signature}",
    }
    return Sent("hub", body, headers)


def gitlab(text: str, user: int = FORGE_OPERATOR, *, signed: bool = False, **more: Any) -> Sent:
    said: dict[str, Any] = {
        "object_kind": "note",
        "user": {"id": user, "username": "anna"},
        "project": {"id": 5, "path_with_namespace": REPOSITORY},
        "object_attributes": {
            "id": next(_numbers),
            "note": text,
            "noteable_type": "MergeRequest",
            "action": "create",
            "created_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        },
        "merge_request": {"iid": 7, "last_commit": {"id": HEAD}},
    }
    body = json.dumps(_with(said, more)).encode()
    headers = {"Content-Type": "application/json", "X-Gitlab-Event": "Note Hook"}
    if signed:
        return standard_signed("lab-signed", body, more=headers)
    return Sent("lab", body, {**headers, "X-Gitlab-Token": WORD})


def _with(said: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Its parts with other values: ``comment__created_at=…``."""
    for path, value in more.items():
        *around, name = path.split("__")
        inner = said
        for part in around:
            inner = inner[part]
        inner[name] = value
    return said


def texts(messages: Iterable[Any]) -> list[list[str]]:
    return [one.texts for one in messages]
