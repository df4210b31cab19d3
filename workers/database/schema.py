"""The tables. Instants are Unix time by the database's clock, durations seconds.

What must never happen is a constraint, so that no code path can do it: two verdicts of a run, a
verdict of a run that is not finished, two rehearsals of one guest at once, two open runs for the
same wish, a night run twice.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    FromClause,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    literal_column,
    text,
)

from workers.database.states import HELD, OPEN, RunState

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)


def _among(column: str, states: tuple[RunState, ...]) -> str:
    return f"{column} IN ({', '.join(repr(state.value) for state in states)})"


def state_in(table: FromClause, *states: RunState) -> ColumnElement[bool]:
    """The states are written out: with parameters in their place no partial index is used."""
    written: list[ColumnElement[str]] = [literal_column(f"'{state.value}'") for state in states]
    state: ColumnElement[str] = table.c.state
    return state == written[0] if len(written) == 1 else state.in_(written)


runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("scenario", Text, nullable=False),
    Column("guest", Text, nullable=False),  # or the image's path
    Column("host", Text, nullable=False),  # name in the inventory: the queue that it waits in
    Column("request", JSON, nullable=False),  # all that a worker needs to know
    Column("wish", Text, nullable=False),  # equal for requests that one rehearsal answers
    Column("state", Text, nullable=False),
    Column("priority", Integer, nullable=False),  # lower is sooner
    Column("submitted", Float, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("started", Float),  # of the last attempt
    Column("ended", Float),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("most_attempts", Integer, nullable=False),
    Column("fence", Integer, nullable=False, server_default="0"),  # grows with every claim
    Column("owner", Text, nullable=False, server_default=""),  # the worker that holds it
    Column("lease_until", Float),
    Column("phase", Text, nullable=False, server_default=""),
    Column("waiting", Text, nullable=False, server_default=""),  # why it is queued, for people
    Column("origin", Text, nullable=False),  # who asked: "cli", "schedule web01-nightly"
    Column("night", Text),  # "schedule@due": of the nightly run that it belongs to
    Column("verdict", Text),
    Column("reason", Text, nullable=False, server_default=""),
    CheckConstraint(_among("state", tuple(RunState)), name="state"),
    CheckConstraint("(state = 'finished') = (verdict IS NOT NULL)", name="verdict"),
    CheckConstraint(f"({_among('state', HELD)}) = (lease_until IS NOT NULL)", name="lease"),
)
Index(
    "one_rehearsal_a_guest",
    runs.c.host,
    runs.c.guest,
    unique=True,
    sqlite_where=text(_among("state", HELD)),
    postgresql_where=text(_among("state", HELD)),
)
Index(
    "one_open_run_a_wish",
    runs.c.wish,
    unique=True,
    sqlite_where=text(_among("state", OPEN)),
    postgresql_where=text(_among("state", OPEN)),
)
Index(
    "next_of_a_host",
    runs.c.host,
    runs.c.priority,
    runs.c.submitted,
    sqlite_where=text("state = 'queued'"),
    postgresql_where=text("state = 'queued'"),
)
Index(
    "held",
    runs.c.lease_until,
    sqlite_where=text(_among("state", HELD)),
    postgresql_where=text(_among("state", HELD)),
)
Index("runs_by_time", runs.c.submitted)
Index("runs_of_a_guest", runs.c.host, runs.c.guest, runs.c.submitted)
Index(
    "runs_of_a_question",
    *(runs.c.host, runs.c.guest, runs.c.scenario, runs.c.submitted, runs.c.id),
)
Index(
    "runs_of_a_night",
    runs.c.night,
    sqlite_where=text("night IS NOT NULL"),
    postgresql_where=text("night IS NOT NULL"),
)
Index(
    "runs_by_verdict",
    runs.c.verdict,
    sqlite_where=text("verdict IS NOT NULL"),
    postgresql_where=text("verdict IS NOT NULL"),
)

# The verdict and what it rests on; kept when artifacts expire.
verdicts = Table(
    "verdicts",
    metadata,
    Column("run_id", Text, ForeignKey(runs.c.id), primary_key=True),
    Column("fence", Integer, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("decided", Float, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("run_id", Text, ForeignKey(runs.c.id), primary_key=True),
    Column("fence", Integer, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("folder", Text, nullable=False, server_default=""),  # id of its record on the worker
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("outcome", Text, nullable=False, server_default=""),  # a verdict or a Change
    Column("reason", Text, nullable=False, server_default=""),
    # In the place for artifacts: "" (not yet, or nowhere), "stored", "expired".
    Column("artifacts", Text, nullable=False, server_default=""),
    Column("bytes", BigInteger, nullable=False, server_default="0"),  # of them
)
Index(
    "stored_artifacts",
    attempts.c.ended,
    sqlite_where=text("artifacts = 'stored'"),
    postgresql_where=text("artifacts = 'stored'"),
)


# How often each check held, of the times that it gave an answer, in a run with a verdict; kept as
# long as its events. Names are as sandbox.verdict.flakiness.kept_name makes them.
check_results = Table(
    "check_results",
    metadata,
    Column("run_id", Text, ForeignKey(runs.c.id), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("guest", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("scenario", Text, nullable=False),
    Column("finished", Float, nullable=False),
    *(
        Column(f"{column}_{what}", Integer, nullable=False, key=f"{when}_{what}")
        # The upgrade of the candidate, and the control, which has none; "twin" is its older word.
        for when, column in (("before", "before"), ("after", "after"), ("control", "twin"))
        for what in ("held", "asked")
    ),
)
Index(
    "check_results_of_a_guest",
    *(check_results.c.guest, check_results.c.host, check_results.c.finished),
)
Index("check_results_by_age", check_results.c.finished)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("run_id", Text, ForeignKey(runs.c.id), nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", Text, nullable=False),  # state, phase, detail, check
    Column("text", Text, nullable=False),
    Column("percent", Float),
)
Index("events_of_a_run", events.c.run_id, events.c.id)

# When a schedule was first seen as it is: what was due before that was not missed, nor while it was
# switched off. One row for each cron expression and time zone that it ever had.
schedules = Table(
    "schedules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("spec", Text, primary_key=True),
    Column("first_seen", Float, nullable=False),
    Column("off_since", Float),  # no scenario has it
)

# One row per due time: only the first worker that notices it can insert the row.
nights = Table(
    "nights",
    metadata,
    Column("schedule", Text, primary_key=True),
    Column("due", Float, primary_key=True),
    Column("outcome", Text, nullable=False),  # "run" | "missed"
    Column("noticed", Float, nullable=False),
    Column("deadline", Float, nullable=False),  # of the summary: who has not ended is in it as such
    Column("zone", Text, nullable=False),  # for people
    Column("summarised", Float),
    Column("silent", Integer, nullable=False, server_default="0"),  # a later one's summary names it
    CheckConstraint("outcome IN ('run', 'missed')", name="outcome"),
)

# The guests of a night. Their runs may be others' that were open: `runs.night` does not say it.
night_guests = Table(
    "night_guests",
    metadata,
    Column("schedule", Text, primary_key=True),
    Column("due", Float, primary_key=True),
    Column("host", Text, primary_key=True),
    Column("guest", Text, primary_key=True),
    Column("run_id", Text, ForeignKey(runs.c.id)),
    Column("problem", Text, nullable=False, server_default=""),  # why there is no run
)

# A night's summary to one target. The target is a digest: its URL holds secrets.
notices = Table(
    "notices",
    metadata,
    Column("schedule", Text, primary_key=True),
    Column("due", Float, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("try_at", Float, nullable=False),
    Column("sent", Float),
)
Index(
    "notices_to_send",
    notices.c.try_at,
    sqlite_where=text("sent IS NULL"),
    postgresql_where=text("sent IS NULL"),
)

# A verdict that may need notifications. The target is "" until a worker decides which targets get
# it; then there is one row per target, as a digest. A row is deleted after its message was sent.
news = Table(
    "news",
    metadata,
    Column("run_id", Text, ForeignKey(runs.c.id), primary_key=True),
    Column("target", Text, primary_key=True),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("try_at", Float, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("hosts", JSON, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("state", Text, nullable=False),  # "up" | "draining"
    Column("started", Float, nullable=False),
    Column("seen", Float, nullable=False),
)

# A task sent through the broker to a queue, answered by a worker in the database: proof that
# the whole way works.
canaries = Table(
    "canaries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("sent", Float, nullable=False),
    Column("answered", Float),
    Column("worker", Text, nullable=False, server_default=""),
)

# Counts that outlive the rows and processes that they are of, for metrics.
counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Float, nullable=False),
)

# How full the hosts' thin pools were when a worker last looked, for metrics.
pools = Table(
    "pools",
    metadata,
    Column("host", Text, primary_key=True),
    Column("pool", Text, primary_key=True),  # group/name
    Column("data", Float, nullable=False),  # percent
    Column("metadata", Float, nullable=False),  # percent
    Column("looked", Float, nullable=False),
)

# Who may use the HTTP API. The secret is not here, only its SHA-256: 256 random bits need no salt
# and nothing slow.
tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),  # a part of the secret that may be seen
    Column("name", Text, nullable=False),  # for people
    Column("scope", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("revoked", Float),
    Column("used", Float),  # to the hour
    CheckConstraint("scope IN ('read', 'submit', 'admin')", name="scope"),
)

# Who is signed in to the web: by a token, and for no longer than that is good. The secret is in
# the browser, here is only its SHA-256.
sessions = Table(
    "sessions",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("token_id", Text, ForeignKey(tokens.c.id), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
)
Index("sessions_by_end", sessions.c.expires)

# What was asked for under a key that the client made up: asked again, it is the same run.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("token_id", Text, ForeignKey(tokens.c.id), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", Text, nullable=False),  # of what was asked for
    Column("run_id", Text, ForeignKey(runs.c.id), nullable=False),
    Column("joined", Integer, nullable=False),
    Column("created", Float, nullable=False),
)
Index("idempotency_keys_by_age", idempotency_keys.c.created)

# Requests that came from chats: what is delivered again is answered as before, and done once.
chat_deliveries = Table(
    "chat_deliveries",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("delivery", Text, primary_key=True),
    Column("answer", JSON, nullable=False),
    Column("created", Float, nullable=False),
)
Index("chat_deliveries_by_age", chat_deliveries.c.created)

# Messages in chats. One about a run is edited until that has ended.
chat_messages = Table(
    "chat_messages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("channel", Text, nullable=False),
    Column("place", JSON, nullable=False),  # where it goes, in the vendor's words
    Column("known", JSON, nullable=False),  # how the vendor calls it, once it is there
    Column("run_id", Text, ForeignKey(runs.c.id)),
    Column("lines", JSON, nullable=False),  # what it says, where no run does
    Column("said", Text, nullable=False, server_default=""),  # digest of what it says by now
    Column("turn", Integer, nullable=False, server_default="0"),  # grows whenever it is taken
    Column("tries", Integer, nullable=False, server_default="0"),  # that came to nothing, in a row
    Column("problem", Text, nullable=False, server_default=""),  # of the last of them
    Column("created", Float, nullable=False),
    Column("try_at", Float, nullable=False),
    Column("done", Float),
)
Index(
    "chat_messages_to_send",
    chat_messages.c.channel,
    chat_messages.c.try_at,
    sqlite_where=text("done IS NULL"),
    postgresql_where=text("done IS NULL"),
)
