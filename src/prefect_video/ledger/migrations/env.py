"""Runs migrations on the connection that `schema` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

import prefect_video.ledger.indexes  # noqa: F401 -- completes the metadata
from prefect_video.ledger.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
