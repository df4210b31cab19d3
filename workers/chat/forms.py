"""A request's body as plain data, or :class:`NotAMessage`; read only after its signature is good.

No field is assumed to have its expected type: a sender with the secret can still send any value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from workers.chat.values import NotAMessage

_MOST_FIELDS = 100
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,99}", re.ASCII)


def form(body: bytes) -> dict[str, str]:
    """Of application/x-www-form-urlencoded."""
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"
        )
    except ValueError as problem:  # UnicodeDecodeError, too
        raise NotAMessage("the body is no form in UTF-8", "send it as the vendor does") from problem
    return dict(pairs)


def mapping(body: bytes) -> dict[str, Any]:
    """Of application/json."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise NotAMessage("the body is no JSON", "send it as the vendor does") from problem
    if not isinstance(data, dict):
        raise NotAMessage("the body is no JSON object", "send it as the vendor does")
    return data


def part(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A mapping within; empty where there is none."""
    for name in names:
        inner = data.get(name)
        data = inner if isinstance(inner, dict) else {}
    return dict(data)


def text(data: Mapping[str, Any], name: str) -> str:
    """A text, "" where there is none."""
    value = data.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise NotAMessage(f"{name} is no text", "send it as the vendor does")
    return value


def identity(data: Mapping[str, Any], name: str) -> str:
    """An id: text or a number."""
    value = data.get(name)
    word = str(value) if type(value) is int else value
    if not isinstance(word, str) or not _ID.fullmatch(word):
        raise NotAMessage(f"{name} is no id", "send it as the vendor does")
    return word


def number(data: Mapping[str, Any], name: str) -> int:
    value = data.get(name)
    if type(value) is not int or not 0 < value < 1 << 62:
        raise NotAMessage(f"{name} is no number", "send it as the vendor does")
    return value


def moment(data: Mapping[str, Any], name: str) -> float:
    """Unix time of 2026-11-25T01:30:00Z, or of GitLab's `2026-11-25 01:30:00 UTC`."""
    words = text(data, name).replace(" UTC", "Z").replace(" ", "T", 1)
    try:
        made = datetime.fromisoformat(words)
        if made.tzinfo is None:
            raise ValueError("no time zone")
        return made.timestamp()
    except (ValueError, OverflowError) as problem:
        raise NotAMessage(f"{name} is no time", "send it as the vendor does") from problem
