"""The results of checks, remembered over runs. Runs that ended before have none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "check_results",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("guest", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("finished", sa.Float(), nullable=False),
        sa.Column("before_held", sa.Integer(), nullable=False),
        sa.Column("before_asked", sa.Integer(), nullable=False),
        sa.Column("after_held", sa.Integer(), nullable=False),
        sa.Column("after_asked", sa.Integer(), nullable=False),
        sa.Column("twin_held", sa.Integer(), nullable=False),
        sa.Column("twin_asked", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_check_results_run_id")),
        sa.PrimaryKeyConstraint("run_id", "name", name=op.f("pk_check_results")),
    )
    op.create_index(
        "check_results_of_a_guest", "check_results", ["guest", "host", "finished"], unique=False
    )
    op.create_index("check_results_by_age", "check_results", ["finished"], unique=False)
