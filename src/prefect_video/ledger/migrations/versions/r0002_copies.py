"""Copies of a stored video in other projects, and prompts that a human allowed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "copies",
        sa.Column("job_id", sa.String, sa.ForeignKey("generations.id"), primary_key=True),
        sa.Column("project", sa.String, primary_key=True),
        sa.Column("shot_id", sa.String, primary_key=True),
        sa.Column("asset", sa.Text, nullable=False),
    )
    op.create_table(
        "allowed_prompts",
        sa.Column("fingerprint", sa.String, primary_key=True),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("at", _INSTANT, nullable=False),
    )
