"""The service itself is upgraded: the schema grows under a worker that has a run in hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sqlalchemy import text

import workers.database
from sandbox.core.errors import HostError
from tests.support.service.ledger_world import PASS, order, row, taken
from workers.database import (
    Database,
    migrate,
    newest_schema,
    open_database,
    require_schema,
    schema_versions,
)
from workers.database.states import RunState
from workers.queue.leases import finish, renew, tell
from workers.queue.submission import submit
from workers.queue.values import Renewal

NEXT = '''"""What a later version may add."""
import sqlalchemy as sa
from alembic import op

revision = "9000"
down_revision = "{before}"


def upgrade() -> None:
    op.add_column("runs", sa.Column("colour", sa.Text(), nullable=False, server_default="blue"))
    op.create_table("colours", sa.Column("name", sa.Text(), primary_key=True))
'''


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The migrations as a later version of this program has them."""
    before = newest_schema()
    folder = tmp_path / "migrations"
    shutil.copytree(workers.database.MIGRATIONS, folder)
    (folder / "versions" / "9000_next.py").write_text(NEXT.format(before=before))
    monkeypatch.setattr(workers.database, "MIGRATIONS", folder)
    newest_schema.cache_clear()
    monkeypatch.setattr(workers.database, "newest_schema", newest_schema.__wrapped__)


def test_a_run_in_hand_survives_the_next_version(
    database: Database, request: pytest.FixtureRequest
) -> None:
    run_id = submit(database, order()).run_id
    held = taken(database)
    waiting = submit(database, order("web02")).run_id
    request.getfixturevalue("next_version")
    with pytest.raises(HostError, match="needs 9000"):
        require_schema(database)
    migrate(database)  # the next version's, while this one works
    assert schema_versions(database) == ("9000", "9000")
    assert renew(database, held, 60.0) is Renewal.KEPT
    tell(database, held, "phase", "verify")
    assert finish(database, held, PASS) is RunState.FINISHED
    assert row(database, run_id).verdict == PASS.verdict
    assert row(database, waiting).state is RunState.QUEUED
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM runs")).scalar_one() == 2
        assert connection.execute(text("SELECT DISTINCT colour FROM runs")).scalar_one() == "blue"


def test_migrating_twice_changes_nothing(database: Database) -> None:
    submit(database, order())
    before = schema_versions(database)
    migrate(database)
    assert schema_versions(database) == before


def test_an_older_program_does_not_begin_on_a_newer_schema(database_url: str) -> None:
    database = open_database(database_url)
    migrate(database)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(HostError, match="schema is 9999") as told:
        require_schema(database)
    assert "upgrade this program" in told.value.hint
    database.close()
