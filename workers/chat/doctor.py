"""Whether chat works, for `sandbox doctor --service`: its file, and messages that are not sent."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import and_, func, or_, select

from sandbox.core.clean_text import one_line
from sandbox.core.wording import count
from sandbox.doctor.host_checks import Finding, State
from workers.chat.config import read_chat
from workers.chat.outbox import MOST_TRIES
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import chat_messages

_LATELY = 86400.0  # seconds


def channels(database: Database, path: str) -> Finding:
    """Raises :class:`RequestError` for a file that is wrong."""
    named = [one.name for one in read_chat(Path(path)).channels]
    lately = chat_messages.c.done > now() - _LATELY
    given_up = and_(chat_messages.c.tries >= MOST_TRIES, lately)
    failing = or_(chat_messages.c.done.is_(None), given_up)
    query = (
        select(
            chat_messages.c.channel,
            func.count().label("messages"),
            func.max(chat_messages.c.problem).label("problem"),
        )
        .where(chat_messages.c.tries > 0, failing)
        .group_by(chat_messages.c.channel)
        .order_by(chat_messages.c.channel)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    if rows:
        told = "; ".join(
            f"{row.channel}: {count(row.messages, 'message')} not sent: {one_line(row.problem)}"
            for row in rows
        )
        hint = "they are tried again for some ten hours; is the channel's token the right one?"
        return Finding(State.WARNING, told, hint)
    return Finding(State.OK, f"{path}: {', '.join(named) or 'no channels'}")
