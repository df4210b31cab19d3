"""Tokens of the HTTP API: made, listed, taken back, and known again.

``sbx_ID_SECRET``: the id is for people and logs, the secret is shown once. The database has only
its SHA-256, so that a reader of the database cannot use the API; the prefix lets scanners for
lost secrets find one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, insert, or_, select, update

from sandbox.core.errors import RequestError
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import tokens

FORM = re.compile(r"sbx_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
LIFETIME = "90d"
USE_EVERY = 3600.0  # seconds: how exactly the last use is known
_UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_LONGEST_NAME = 60


class Scope(StrEnum):
    """What a token may do; each includes those before it."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    def includes(self, other: Scope) -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(other)


class TokenState(StrEnum):
    GOOD = "good"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True)
class IssuedToken:
    """A token without its secret."""

    id: str
    name: str
    scope: Scope
    state: TokenState
    created: float
    expires: float | None
    revoked: float | None
    used: float | None
    used_lately: bool


def create(
    database: Database, name: str, scope: Scope, seconds: float | None
) -> tuple[IssuedToken, str]:
    """A new token, which expires after ``seconds`` or never; its text is shown only this once."""
    if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise RequestError(
            f"{name!r} is no name for a token",
            f"say who uses it, in up to {_LONGEST_NAME} printable characters: --name gitlab",
        )
    token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    text = f"sbx_{token_id}_{secret}"
    with database.write() as connection:
        connection.execute(
            insert(tokens).values(
                id=token_id,
                name=name,
                scope=scope,
                digest=digest(text),
                created=now(),
                expires=None if seconds is None else now() + seconds,
            )
        )
    return get(database, token_id), text


def lifetime(text: str) -> float | None:
    """Seconds of ``30d``, ``12h`` or ``8w``; None for ``never``."""
    if text == "never":
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})([hdw])", text, re.ASCII)
    if found is None:
        raise RequestError(
            f"{text!r} is no time that a token can live", "give 12h, 30d or 8w; or never"
        )
    return int(found[1]) * _UNITS[found[2]]


def listed(database: Database) -> tuple[IssuedToken, ...]:
    """All that there ever were, newest first."""
    with database.read() as connection:
        rows = connection.execute(_TOKENS.order_by(tokens.c.created.desc(), tokens.c.id))
        return tuple(_token(row) for row in rows)


def revoke(database: Database, text: str) -> IssuedToken:
    """Take one back, by its id or a name that only one has that is good; at once and for good."""
    named = or_(tokens.c.id == text, tokens.c.name == text)
    with database.read() as connection:
        found = [_token(row) for row in connection.execute(_TOKENS.where(named))]
    good = [one for one in found if one.id == text or one.state is TokenState.GOOD]
    if not good:
        raise NoSuchToken(text)
    if len(good) > 1:
        ids = ", ".join(one.id for one in good)
        raise RequestError(f"{text!r} is the name of {len(good)} tokens", f"say which: {ids}")
    with database.write() as connection:
        connection.execute(
            update(tokens)
            .where(tokens.c.id == good[0].id, tokens.c.revoked.is_(None))
            .values(revoked=now())
        )
    return get(database, good[0].id)


class NoSuchToken(RequestError):
    """No token has that id or name."""

    def __init__(self, text: str) -> None:
        super().__init__(f"no token {text!r}", "`sandbox token list` shows those there are")


def find(database: Database, text: str) -> IssuedToken | None:
    """The token whose text this is, whatever has become of it; None for no token of ours."""
    form = FORM.fullmatch(text)
    if form is None:
        return None
    with database.read() as connection:
        row = connection.execute(_TOKENS.where(tokens.c.id == form[1])).first()
    if row is None or not hmac.compare_digest(row.digest, digest(text)):
        return None
    return _token(row)


def is_good(database: Database, token_id: str) -> bool:
    """Whether one that was good still is."""
    with database.read() as connection:
        row = connection.execute(_TOKENS.where(tokens.c.id == token_id)).first()
    return row is not None and _token(row).state is TokenState.GOOD


def note_use(database: Database, token: IssuedToken) -> None:
    """Coarsely: a write for each request would cost more than what most requests ask for."""
    if token.used_lately:
        return
    stale = or_(tokens.c.used.is_(None), tokens.c.used < now() - USE_EVERY)
    with database.write() as connection:
        connection.execute(update(tokens).where(tokens.c.id == token.id, stale).values(used=now()))


_TOKENS = select(tokens, now().label("moment"))


def get(database: Database, token_id: str) -> IssuedToken:
    """One that there is, by its id."""
    with database.read() as connection:
        return _token(connection.execute(_TOKENS.where(tokens.c.id == token_id)).one())


def _token(row: Row[Any]) -> IssuedToken:
    state = TokenState.GOOD
    if row.revoked is not None:
        state = TokenState.REVOKED
    elif row.expires is not None and row.expires <= row.moment:
        state = TokenState.EXPIRED
    return IssuedToken(
        id=row.id,
        name=row.name,
        scope=Scope(row.scope),
        state=state,
        created=row.created,
        expires=row.expires,
        revoked=row.revoked,
        used=row.used,
        used_lately=row.used is not None and row.used > row.moment - USE_EVERY,
    )


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
