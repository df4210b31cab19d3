"""Mattermost: a slash command. Its only proof is a token, which every request holds: a reader of
one request can forge others. Messages are sent with a bot's token, over REST."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sandbox.core.errors import HostError
from workers.chat import forms, markup, signatures
from workers.chat.values import Channel, ChatReply, ChatRequest, Lines, Place, Telling
from workers.chat.wire import Wire, answer


def hear(
    channel: Channel, headers: Mapping[str, str], body: bytes, now: float
) -> ChatRequest | ChatReply:
    given = headers.get("authorization", "").removeprefix("Token ")
    signatures.token(channel.secret, given)
    said = forms.form(body)
    user = forms.identity(said, "user_id")
    # Made for each command, so that it can be answered with a dialog.
    trigger = forms.text(said, "trigger_id") or body.decode(errors="replace")
    return ChatRequest(
        user=user,
        text=forms.text(said, "text"),
        delivery=f"command {hashlib.sha256(trigger.encode()).hexdigest()}",
        place={"channel": forms.identity(said, "channel_id")},
        seen=True,
    )


def say(lines: Lines) -> ChatReply:
    return answer({"response_type": "ephemeral", "text": markup.markdown(lines)})


class MattermostMessages:
    """Those of one channel of chat.yaml."""

    def __init__(self, channel: Channel) -> None:
        self._wire = Wire()
        self._posts = f"{channel.url.rstrip('/')}/api/v4/posts"
        self._headers = {
            "Authorization": f"Bearer {channel.token}",
            "Content-Type": "application/json",
        }

    def send(self, place: Place, known: Mapping[str, Any], telling: Telling) -> Mapping[str, Any]:
        text = markup.markdown(telling.lines)
        if known:
            self._ask("PUT", f"{self._posts}/{known['post']}/patch", {"message": text})
            return known
        told = self._ask("POST", self._posts, {"channel_id": place["channel"], "message": text})
        return {"post": forms.identity(told, "id")}

    def _ask(self, method: str, url: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
        told = self._wire.ask(method, url, json.dumps(data).encode(), self._headers)
        if not isinstance(told, dict):
            raise HostError("its answer is no JSON object", "is the channel's url Mattermost's?")
        return told
