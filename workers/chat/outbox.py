"""Requests that were received and messages that wait to be sent, as rows of the database.

A request, its run and the message about it are written in one transaction: none of them exists
without the others. A sender takes a message by its row; if the sender is killed, the row is free
again after a while.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from sandbox.core.errors import HostError
from workers.chat.values import ChatRequest, Lines, Span, Telling
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import chat_deliveries, chat_messages

KEPT = 7 * 86400.0  # seconds; what is older is refused by its time, where the vendor signs one
LEASE = 60.0  # seconds that a sender has for a message: longer than a vendor may take
PACE = 2.0  # seconds between two edits of a message: vendors count them
# Seconds after a try that came to nothing; the last pause comes again until a message is given up.
PAUSES = (1.0, 3.0, 10.0, 30.0, 120.0, 600.0, 1800.0)
MOST_TRIES = 26  # some ten hours


@dataclass(frozen=True)
class Waiting:
    """A message that may have something to say."""

    id: str
    turn: int
    tries: int
    place: Mapping[str, Any]
    known: Mapping[str, Any]
    said: str  # digest of what it says
    run_id: str | None
    lines: Lines


def answered(connection: Connection, channel: str, delivery: str) -> Lines | None:
    """What was answered to the same request before."""
    row = connection.execute(
        select(chat_deliveries.c.answer).where(
            chat_deliveries.c.channel == channel, chat_deliveries.c.delivery == delivery
        )
    ).first()
    return None if row is None else _lines(row.answer)


def note(connection: Connection, channel: str, delivery: str, answer: Lines) -> None:
    """Raises IntegrityError where the same request came in between."""
    connection.execute(
        insert(chat_deliveries).values(
            channel=channel, delivery=delivery, answer=_plain(answer), created=now()
        )
    )


def begin(
    connection: Connection,
    channel: str,
    heard: ChatRequest,
    *,
    run_id: str | None,
    lines: Lines = (),
) -> None:
    """A message about a run, or one that says ``lines`` and is done."""
    connection.execute(
        insert(chat_messages).values(
            id=secrets.token_hex(8),
            channel=channel,
            place=dict(heard.place),
            known={},
            run_id=run_id,
            lines=_plain(lines),
            created=now(),
            try_at=now(),
        )
    )


def waiting(database: Database, channel: str) -> tuple[Waiting, ...]:
    query = (
        select(chat_messages)
        .where(chat_messages.c.channel == channel, chat_messages.c.done.is_(None))
        .where(chat_messages.c.try_at <= now())
        .order_by(chat_messages.c.try_at)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    return tuple(
        Waiting(
            row.id,
            row.turn,
            row.tries,
            row.place,
            row.known,
            row.said,
            row.run_id,
            _lines(row.lines),
        )
        for row in rows
    )


def take(database: Database, message: Waiting) -> bool:
    """Whether it is ours to send now."""
    with database.write() as connection:
        taken = connection.execute(
            update(chat_messages)
            .where(chat_messages.c.id == message.id, chat_messages.c.turn == message.turn)
            .where(chat_messages.c.done.is_(None))
            .values(turn=message.turn + 1, try_at=now() + LEASE)
        )
    return bool(taken.rowcount)


def sent(database: Database, message: Waiting, known: Mapping[str, Any], telling: Telling) -> None:
    """Record what was sent; nothing is written when another sender has taken the message since."""
    values: dict[str, Any] = {"known": dict(known), "said": digest(telling), "tries": 0}
    values |= {"done": now()} if telling.final else {"try_at": now() + PACE}
    _write(database, message, **values)


def failed(database: Database, message: Waiting, problem: str, *, gone: bool = False) -> bool:
    """It is tried again later; False when it is given up."""
    pause = PAUSES[min(message.tries, len(PAUSES) - 1)]
    tries = message.tries + 1
    values: dict[str, Any] = {"tries": tries, "try_at": now() + pause, "problem": problem}
    values |= {"known": {}} if gone else {}
    values |= {"done": now()} if tries >= MOST_TRIES else {}
    _write(database, message, **values)
    return tries < MOST_TRIES


def wait(database: Database, channel: str, message: Waiting, seconds: float) -> None:
    """Delay all messages of the channel, by every sender: the vendor limits the rate."""
    _write(database, message, try_at=now() + seconds)
    with database.write() as connection:
        connection.execute(
            update(chat_messages)
            .where(chat_messages.c.channel == channel, chat_messages.c.done.is_(None))
            .where(chat_messages.c.try_at < now() + seconds)
            .values(try_at=now() + seconds)
        )


def _write(database: Database, message: Waiting, **values: Any) -> None:
    with database.write() as connection:
        connection.execute(
            update(chat_messages)
            .where(chat_messages.c.id == message.id, chat_messages.c.turn == message.turn + 1)
            .values(**values)
        )


def forget(database: Database) -> None:
    """Remove what is too old to be repeated, and messages that have been said."""
    with database.write() as connection:
        connection.execute(delete(chat_deliveries).where(chat_deliveries.c.created < now() - KEPT))
        connection.execute(delete(chat_messages).where(chat_messages.c.done < now() - KEPT))


def digest(telling: Telling) -> str:
    said = json.dumps([_plain(telling.lines), telling.word, telling.final])
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _plain(lines: Lines) -> list[list[list[str]]]:
    return [[[span.text, span.style, span.url] for span in line] for line in lines]


def _lines(data: Any) -> Lines:
    return tuple(tuple(Span(*span) for span in line) for line in data)


class Unwritten(HostError):
    """Equal requests came and went too quickly."""

    def __init__(self) -> None:
        super().__init__("the request could not be written down", "send it again")
