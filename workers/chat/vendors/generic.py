"""Any other: webhooks signed as https://www.standardwebhooks.com has it, in both directions. For
bridges to Matrix, IRC and the like, and for scripts."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

from workers.chat import forms, markup, signatures
from workers.chat.values import Channel, ChatReply, ChatRequest, Lines, Place, Telling
from workers.chat.wire import Wire, answer


def hear(
    channel: Channel, headers: Mapping[str, str], body: bytes, now: float
) -> ChatRequest | ChatReply:
    number = signatures.standard(channel.secret, headers, body, now)
    said = forms.mapping(body)
    return ChatRequest(
        user=forms.identity(said, "user"),
        text=forms.text(said, "text"),
        delivery=f"message {number}",
        place={"message": number},
        seen=True,
    )


def say(lines: Lines) -> ChatReply:
    return answer({"text": markup.plain(lines), "markdown": markup.markdown(lines)})


class GenericMessages:
    """To the channel's ``url``; without one no message is sent."""

    def __init__(self, channel: Channel) -> None:
        self._wire = Wire()
        self._url = channel.url
        self._secret = channel.secret

    def send(self, place: Place, known: Mapping[str, Any], telling: Telling) -> Mapping[str, Any]:
        if not self._url:
            return known
        body = json.dumps(
            {
                "message": place["message"],  # the id of the request that asked
                "run": telling.run_id,
                "word": telling.word,
                "why": telling.why,
                "final": telling.final,
                "link": telling.link,
                "text": markup.plain(telling.lines),
                "markdown": markup.markdown(telling.lines),
            },
            sort_keys=True,
        ).encode()
        # Equal for what is sent again: the other side can tell.
        number = f"msg_{hashlib.sha256(body).hexdigest()[:32]}"
        stamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": number,
            "webhook-timestamp": stamp,
            "webhook-signature": signatures.standard_signature(self._secret, number, stamp, body),
        }
        self._wire.ask("POST", self._url, body, headers)
        return {"last": number}
