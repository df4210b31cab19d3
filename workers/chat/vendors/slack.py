"""Slack: a slash command, and mentions of the app. Messages by its SDK, with the app's bot token:
a `response_url` lives for half an hour, and is an address that a request brings along."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workers.chat import forms, markup, signatures
from workers.chat.values import (
    Channel,
    ChatReply,
    ChatRequest,
    Gone,
    Lines,
    Place,
    Telling,
    TryLater,
)
from workers.chat.wire import SECONDS, answer, wait_of

if TYPE_CHECKING:
    from slack_sdk.errors import SlackApiError

_MENTION = re.compile(r"<@[A-Z0-9]+(?:\|[^<>]*)?>")
# What Slack makes of words that look like addresses: <http://web01.example.org|web01.example.org>
_LINKED = re.compile(r"<(?:https?://|mailto:|tel:)[^<>|]*\|([^<>|]*)>")
_BARE = re.compile(r"<(?:https?://|mailto:|tel:)([^<>|]*)>")
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))
# The app is not in the channel: it writes to the one who asked.
_NOT_THERE = ("not_in_channel", "channel_not_found", "is_archived")


def hear(
    channel: Channel, headers: Mapping[str, str], body: bytes, now: float
) -> ChatRequest | ChatReply:
    signatures.slack(channel.secret, headers, body, now)
    if headers.get("content-type", "").startswith("application/json"):
        return _event(forms.mapping(body))
    said = forms.form(body)
    if said.get("ssl_check") == "1":
        return ChatReply()
    user = forms.identity(said, "user_id")
    # Neither is repeated by Slack: who sends the same once more has caught it.
    signature = headers["x-slack-signature"]
    return ChatRequest(
        user=user,
        text=_as_written(forms.text(said, "text")),
        delivery=f"command {hashlib.sha256(signature.encode()).hexdigest()}",
        place={"channel": forms.identity(said, "channel_id"), "user": user},
        seen=True,
    )


def _event(said: Mapping[str, Any]) -> ChatRequest | ChatReply:
    if said.get("type") == "url_verification":  # asked once, when the address is set up
        return ChatReply(forms.text(said, "challenge")[:200].encode(), "text/plain; charset=utf-8")
    event = forms.part(said, "event")
    if event.get("type") != "app_mention" or event.get("bot_id"):
        return ChatReply()
    text = forms.text(event, "text")
    mention = _MENTION.search(text)
    user = forms.identity(event, "user")
    thread = "thread_ts" if event.get("thread_ts") else "ts"
    return ChatRequest(
        user=user,
        text=_as_written(text[mention.end() :] if mention else text),
        delivery=f"event {forms.identity(said, 'event_id')}",
        place={
            "channel": forms.identity(event, "channel"),
            "thread": forms.identity(event, thread),
            "user": user,
        },
        seen=False,
    )


def _as_written(text: str) -> str:
    text = _BARE.sub(r"\1", _LINKED.sub(r"\1", text))
    for entity, sign in _ENTITIES:
        text = text.replace(entity, sign)
    return text


def say(lines: Lines) -> ChatReply:
    """For the one who asked only."""
    return answer({"response_type": "ephemeral", **_content(lines)})


def _content(lines: Lines) -> dict[str, Any]:
    block = {"type": "mrkdwn", "text": markup.mrkdwn(lines), "verbatim": True}
    return {
        "text": markup.escaped(markup.plain(lines)),  # of notifications
        "blocks": [{"type": "section", "text": block}],
    }


class SlackMessages:
    """Those of one channel of chat.yaml."""

    def __init__(self, channel: Channel) -> None:
        from slack_sdk import WebClient

        # No retry handlers: the caller tries again, since it knows when.
        self._client = WebClient(
            channel.token, base_url=channel.url, timeout=SECONDS, retry_handlers=[]
        )

    def send(self, place: Place, known: Mapping[str, Any], telling: Telling) -> Mapping[str, Any]:
        from slack_sdk.errors import SlackApiError

        content = _content(telling.lines)
        try:
            if known:
                self._client.chat_update(channel=known["channel"], ts=known["ts"], **content)
                return known
            return self._post(place, content)
        except SlackApiError as problem:
            error = _error(problem)
            if error == "ratelimited":
                raise TryLater(wait_of(problem.response.headers)) from None
            if error == "message_not_found":
                raise Gone("Slack's message is not there any more", "a new one is made") from None
            raise

    def _post(self, place: Place, content: Mapping[str, Any]) -> Mapping[str, Any]:
        from slack_sdk.errors import SlackApiError

        more = {"unfurl_links": False, "unfurl_media": False, "parse": "none", **content}
        thread = str(place["thread"]) if "thread" in place else None
        try:
            told = self._client.chat_postMessage(
                channel=str(place["channel"]), thread_ts=thread, **more
            )
        except SlackApiError as problem:
            if _error(problem) not in _NOT_THERE:
                raise
            told = self._client.chat_postMessage(channel=str(place["user"]), **more)
        return {"channel": told["channel"], "ts": told["ts"]}


def _error(problem: SlackApiError) -> str:
    return str(problem.response.get("error", ""))
