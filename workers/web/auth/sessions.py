"""Who is signed in to the web: a random secret in a cookie, of which the database has the SHA-256.

A session stands for the token that it was opened with: it may what that may, and ends with it.
"""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import delete, insert, select

from workers.database import Database
from workers.database.clock import now
from workers.database.schema import sessions
from workers.web.auth.tokens import IssuedToken, TokenState, get

LIFETIME = 12 * 3600.0  # seconds


def begin(database: Database, token: IssuedToken) -> str:
    """Start a session of a good token; returns the cookie's secret, which is not stored."""
    secret = secrets.token_urlsafe(32)
    with database.write() as connection:
        connection.execute(delete(sessions).where(sessions.c.expires <= now()))
        connection.execute(
            insert(sessions).values(
                digest=_digest(secret),
                token_id=token.id,
                created=now(),
                expires=now() + LIFETIME,
            )
        )
    return secret


def find(database: Database, secret: str) -> IssuedToken | None:
    """The token that the session was started with, if both are still good."""
    query = select(sessions.c.token_id).where(
        sessions.c.digest == _digest(secret), sessions.c.expires > now()
    )
    with database.read() as connection:
        token_id = connection.execute(query).scalar()
    token = get(database, token_id) if token_id else None
    return token if token is not None and token.state is TokenState.GOOD else None


def end(database: Database, secret: str) -> None:
    with database.write() as connection:
        connection.execute(delete(sessions).where(sessions.c.digest == _digest(secret)))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
