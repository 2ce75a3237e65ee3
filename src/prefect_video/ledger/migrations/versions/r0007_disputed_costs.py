"""Costs that a provider told and that are not believed until a human has settled them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("generations", sa.Column("disputed_usd", sa.BigInteger))
