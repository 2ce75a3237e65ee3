"""What an account can bear right now, and the queue for its slots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("slots", sa.Integer),
        sa.Column("slots_at", _INSTANT),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("open_until", _INSTANT),
        sa.Column("probing_until", _INSTANT),
        sa.Column("quota_until", _INSTANT),
    )
    op.add_column("generations", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("generations", sa.Column("waiting_since", _INSTANT))
