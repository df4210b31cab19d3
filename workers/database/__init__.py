"""Where the truth is: SQLite on one machine, PostgreSQL for several."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, select
from sqlalchemy.exc import (
    ArgumentError,
    DisconnectionError,
    IntegrityError,
    SQLAlchemyError,
)

from sandbox.core.errors import HostError, RequestError
from workers.database.clock import now

PATIENCE = 30  # seconds that a writer waits for another
IDLE = 2.0  # seconds after which a connection is tried before it is used
_READING = "sandbox_reading"  # an execution option of ours
MIGRATIONS = Path(__file__).resolve().parent / "migrations"


class Database:
    """One database; safe to use from several threads, not across a fork."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reading: dict[str, Any] = {_READING: True}
        if engine.dialect.name == "postgresql":
            self._reading["isolation_level"] = "AUTOCOMMIT"

    @property
    def url(self) -> str:
        """For people: without the password."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction; SQLite's takes its write lock at once, so that it cannot fail halfway."""
        with _explained(self), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """For looking only: takes no lock."""
        with _explained(self), self.engine.connect() as connection:
            yield connection.execution_options(**self._reading)

    @contextlib.contextmanager
    def single(self) -> Iterator[Connection]:
        """For one statement that is a transaction of its own: a third of the round trips."""
        with self.read() as connection:
            yield connection

    def now(self) -> float:
        with self.read() as connection:
            return float(connection.execute(select(now())).scalar_one())

    def close(self) -> None:
        self.engine.dispose()


def open_database(url: str) -> Database:
    """A database by its SQLAlchemy URL, at the newest version of the schema it may stay behind.

    Raises :class:`RequestError` for a URL that is none. Nothing is connected yet.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as problem:
        raise RequestError(
            f"the database URL {url!r} is none", "sqlite:////PATH or postgresql://USER@HOST/NAME"
        ) from problem
    kind = parsed.get_backend_name()
    if kind == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        engine = create_engine(parsed, pool_size=5, max_overflow=20, connect_args=_POSTGRESQL)
        _check_idle_connections(engine)
    elif kind == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": PATIENCE})
        _prepare_sqlite(engine)
    else:
        raise RequestError(
            f"no support for databases of kind {kind!r}",
            "SQLite for one machine (sqlite:////PATH), PostgreSQL for several",
        )
    return Database(engine)


# A server that vanished must not hold a worker longer than its lease lasts.
_POSTGRESQL = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25000,  # ms; keepalives do not see what was sent and never acknowledged
    # A worker that freezes within a transaction must not hold its locks: no others could claim.
    "options": "-c statement_timeout=30000 -c lock_timeout=20000"
    " -c idle_in_transaction_session_timeout=10000",
}


def _check_idle_connections(engine: Engine) -> None:
    """A server that was restarted is noticed before the connection is used; one that answered a
    moment ago is not asked each time, as SQLAlchemy's pre-ping does."""

    @event.listens_for(engine, "checkin")
    def checkin(_connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: Any, _proxy: Any) -> None:
        idle = time.monotonic() - record.info.get("used", time.monotonic())
        if idle < IDLE:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as problem:
            raise DisconnectionError from problem  # the pool makes a new one, and asks again


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if not connection.get_execution_options().get(_READING):
            connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextlib.contextmanager
def _explained(database: Database) -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise  # the caller handles it: another writer was first
    except SQLAlchemyError as problem:
        raise HostError(
            f"the database {database.url} cannot be used: {_first_line(problem)}",
            "is the server up? `sandbox doctor` looks; without a schema: sandbox migrate",
        ) from problem


def _first_line(problem: SQLAlchemyError) -> str:
    lines = str(getattr(problem, "orig", None) or problem).strip().splitlines()
    return lines[0] if lines else type(problem).__name__


def migrate(database: Database) -> None:
    """Bring the schema to the newest version; alembic keeps what was done in the database.

    Of several that call it at once one does the work, the others wait and find it done.
    """
    from alembic import command

    with _explained(database), database.engine.begin() as connection:
        if database.engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7265626)")
        command.upgrade(_alembic(connection), "head")


def schema_versions(database: Database) -> tuple[str, str]:
    """(the database's version of the schema, "" for none; the newest that this code knows)."""
    from alembic.runtime.migration import MigrationContext

    with database.read() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current or "", newest_schema()


@lru_cache(maxsize=1)
def newest_schema() -> str:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(MIGRATIONS)).get_current_head() or ""


def require_schema(database: Database) -> None:
    """Raises :class:`HostError` when the schema is not the one that this code was written for.

    A newer one is refused as well: what it means by its rows is not known here.
    """
    current, newest = schema_versions(database)
    if current != newest:
        raise HostError(
            f"the database's schema is {current or 'not there'}, this version needs {newest}",
            "sandbox migrate brings an older one up to date; upgrade this program for a newer one",
        )


def _alembic(connection: Connection) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config
