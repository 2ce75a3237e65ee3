"""Webhook events, and word of every row that moves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
_PENDING = sa.text("handled_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "webhook_events",
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("event_id", sa.String, primary_key=True),
        sa.Column("generation_id", sa.String, nullable=False),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("received_at", _INSTANT, nullable=False),
        sa.Column("handled_at", _INSTANT),
        sa.Column("told", sa.Text),
    )
    op.create_index("ix_webhook_events_generation", "webhook_events", ["account", "generation_id"])
    op.create_index(
        "ix_webhook_events_pending",
        "webhook_events",
        ["received_at"],
        sqlite_where=_PENDING,
        postgresql_where=_PENDING,
    )
    if op.get_bind().dialect.name == "postgresql":
        _announce_changes()


def _announce_changes() -> None:
    # A trigger, not the code that moves rows: whoever moves one, of whatever version, is heard.
    op.execute(
        "CREATE FUNCTION announce_generation() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_notify('prefect_video_rows', NEW.id); RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER generation_changed AFTER UPDATE OF state, hold_reason, owner ON generations FOR EACH ROW "
        "WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.hold_reason IS DISTINCT FROM NEW.hold_reason "
        "OR OLD.owner IS DISTINCT FROM NEW.owner) EXECUTE FUNCTION announce_generation()"
    )
