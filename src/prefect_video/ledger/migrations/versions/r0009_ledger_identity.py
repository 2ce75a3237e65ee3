"""The identity of a ledger, which sidecars in the store name."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    identity = op.create_table("ledger_identity", sa.Column("id", sa.String, primary_key=True))
    op.bulk_insert(identity, [{"id": str(uuid.uuid4())}])
