"""Generations, their history, and the processes that work on them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
_UNFINISHED = sa.text("state IN ('completed', 'reserved', 'submitted', 'submitting', 'unknown')")
_ACCEPTED = sa.text("generation_id IS NOT NULL")


def upgrade() -> None:
    _create_generations()
    _create_indexes()
    _create_history()
    _forbid_changes()
    op.create_table(
        "owners",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("heartbeat_at", _INSTANT, nullable=False),
    )


def _create_generations() -> None:
    op.create_table(
        "generations",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("shot", sa.Text, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("take", sa.Integer, nullable=False),
        sa.Column("project", sa.String, nullable=False),
        sa.Column("provider", sa.String, nullable=False),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("environment", sa.String, nullable=False),
        sa.Column("credentials", sa.String, nullable=False),
        sa.Column("store", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("owner", sa.String),
        sa.Column("generation_id", sa.String),
        sa.Column("request_id", sa.String),
        sa.Column("reserved_usd", sa.BigInteger),
        sa.Column("actual_usd", sa.BigInteger),
        sa.Column("flow_run_id", sa.String),
        sa.Column("task_run_id", sa.String),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("sent_at", _INSTANT),
        sa.Column("submitted_at", _INSTANT),
        sa.Column("completed_at", _INSTANT),
        sa.Column("stored_at", _INSTANT),
        sa.Column("updated_at", _INSTANT, nullable=False),
        sa.Column("estimated_completion_at", _INSTANT),
        sa.Column("deadline_at", _INSTANT),
        sa.Column("expires_at", _INSTANT),
        sa.Column("error_type", sa.String),
        sa.Column("error_message", sa.Text),
        sa.Column("hold_reason", sa.Text),
        sa.Column("asset", sa.Text),
    )


def _create_indexes() -> None:
    under_way: dict[str, Any] = {"sqlite_where": _UNFINISHED, "postgresql_where": _UNFINISHED}
    accepted: dict[str, Any] = {"sqlite_where": _ACCEPTED, "postgresql_where": _ACCEPTED}
    amounts = ["state", "actual_usd", "reserved_usd"]
    table = "generations"
    op.create_index("uq_generations_under_way", table, ["environment", "fingerprint"], unique=True, **under_way)
    op.create_index("uq_generations_accepted", table, ["account", "generation_id"], unique=True, **accepted)
    op.create_index("ix_generations_found", table, ["environment", "fingerprint", "state"])
    op.create_index("ix_generations_unfinished", table, ["created_at"], **under_way)
    op.create_index("ix_generations_flow_run", table, ["flow_run_id"])
    op.create_index("ix_generations_sent", table, ["account", "sent_at"])
    op.create_index("ix_generations_submitted", table, ["account", "submitted_at"])
    op.create_index("ix_generations_project", table, ["project", *amounts])
    op.create_index("ix_generations_account", table, ["account", *amounts])
    op.create_index("ix_generations_created", table, ["created_at", *amounts])


def _create_history() -> None:
    op.create_table(
        "history",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String, sa.ForeignKey("generations.id"), nullable=False),
        sa.Column("at", _INSTANT, nullable=False),
        sa.Column("from_state", sa.String),
        sa.Column("to_state", sa.String, nullable=False),
        sa.Column("detail", sa.Text),
        sa.Column("owner", sa.String),
    )
    op.create_index("ix_history_job", "history", ["job_id"])


def _forbid_changes() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER history_no_{change.lower()} BEFORE {change} ON history "
                "BEGIN SELECT RAISE(ABORT, 'history is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION history_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'history is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER history_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON history "
        "FOR EACH STATEMENT EXECUTE FUNCTION history_is_append_only()"
    )
