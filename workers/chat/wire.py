"""HTTP as all vendors speak it: JSON, bounded times, no redirects, nothing tried twice here."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import urllib3

from sandbox.core.errors import HostError
from workers.chat.values import ChatReply, Gone, TryLater

SECONDS = 10  # that a vendor's answer may take
PAUSE = 30.0  # seconds, where a vendor does not say how long
_LONGEST_WAIT = 3600.0
_MOST_BYTES = 1 << 20


def answer(data: Mapping[str, Any]) -> ChatReply:
    return ChatReply(json.dumps(data).encode())


def wait_of(headers: Mapping[str, str]) -> float:
    """Seconds of Retry-After, or until x-ratelimit-reset."""
    given = {name.lower(): value for name, value in headers.items()}
    try:
        if "retry-after" in given:
            seconds = float(given["retry-after"])
        else:
            seconds = float(given["x-ratelimit-reset"]) - time.time()
    except (KeyError, ValueError):
        return PAUSE
    return min(max(1.0, seconds), _LONGEST_WAIT)  # in this order NaN is no number of seconds


class Wire:
    """A vendor without a library of its own."""

    def __init__(self) -> None:
        self._pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(SECONDS))

    def ask(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Any:
        """What is answered; raises :class:`TryLater`, :class:`Gone`, :class:`HostError`."""
        try:
            told = self._pool.request(
                method, url, body=body, headers=dict(headers), redirect=False, preload_content=False
            )
            with told:
                text = told.read(_MOST_BYTES, decode_content=True)
        except urllib3.exceptions.HTTPError as problem:
            raise HostError(
                f"no answer: {type(problem).__name__}", "it is tried again"
            ) from problem
        if told.status == 429:
            raise TryLater(wait_of(told.headers))
        if told.status in (404, 410) and method != "POST":
            raise Gone("the message is not there any more", "a new one is made")
        if not 200 <= told.status < 300:
            raise HostError(f"it was answered with {told.status}", "is the token the right one?")
        try:
            return json.loads(text or b"null")
        except ValueError:
            return None
