"""Run by alembic: on the connection and in the transaction of `workers.database.migrate`."""

from __future__ import annotations

from alembic import context

from workers.database.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
context.run_migrations()
