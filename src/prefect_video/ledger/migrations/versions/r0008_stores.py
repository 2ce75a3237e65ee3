"""Which store, by the identity in its marker, lies at which address and holds which asset."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("generations", sa.Column("store_id", sa.String))
    op.create_table(
        "stores",
        sa.Column("url", sa.String, primary_key=True),
        sa.Column("store_id", sa.String, primary_key=True),
    )
