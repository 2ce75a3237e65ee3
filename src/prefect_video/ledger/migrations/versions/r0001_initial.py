"""The first schema: jobs, their history and owners, accounts, copies, stores, choices, webhook events and keys."""

from __future__ import annotations

import uuid
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
_HELD = sa.text("hold_reason IS NOT NULL")
_LATE = sa.text("substr(fingerprint, 1, 5) = 'late:'")
_WAITING = sa.text("waiting_since IS NOT NULL")
_DEGRADED = sa.text("degraded IS NOT NULL")
_BLOCKED = sa.text("error_type IN ('ContentPolicyError', 'GenerationBlocked')")
_SENDING = sa.text("to_state = 'submitting'")
_OPEN = sa.text("ended_at IS NULL")
_PENDING = sa.text("handled_at IS NULL")


def upgrade() -> None:
    """Create all tables, indexes and triggers of an empty database."""
    _create_jobs()
    _create_indexes()
    _create_history()
    _forbid_history_changes()
    _create_owners_and_accounts()
    _create_copies_and_stores()
    _create_prompts_and_keys()
    _create_choices()
    _create_approval_requests()
    _create_webhook_events()
    _create_client_requests()
    _create_identity()
    _create_committed_sums()
    _keep_committed_sums()
    if op.get_bind().dialect.name == "postgresql":
        _notify_of_changes()


def _create_jobs() -> None:
    op.create_table(
        "jobs",
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
        sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
        sa.Column("waiting_since", _INSTANT),
        sa.Column("unknown_at", _INSTANT),
        sa.Column("disputed_usd", sa.BigInteger),
        sa.Column("store_id", sa.String),
        sa.Column("on_mismatch", sa.String),
        sa.Column("left_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("left_reason", sa.Text),
        sa.Column("seconds_taken", sa.Float),
        sa.Column("max_attempts", sa.Integer, nullable=False, server_default="2"),
        sa.Column("quality_policy", sa.Text),
        sa.Column("quality", sa.Text),
        sa.Column("requester", sa.String),
        sa.Column("key_fingerprint", sa.String),
        sa.Column("traceparent", sa.String),
        sa.Column("degraded", sa.Text),
    )


def _create_indexes() -> None:
    in_progress: dict[str, Any] = {"sqlite_where": _UNFINISHED, "postgresql_where": _UNFINISHED}
    accepted: dict[str, Any] = {"sqlite_where": _ACCEPTED, "postgresql_where": _ACCEPTED}
    amounts = ["state", "actual_usd", "reserved_usd"]
    table = "jobs"
    op.create_index("uq_jobs_in_progress", table, ["environment", "fingerprint"], unique=True, **in_progress)
    op.create_index("uq_jobs_generation", table, ["account", "generation_id"], unique=True, **accepted)
    op.create_index("ix_jobs_fingerprint", table, ["environment", "fingerprint", "state"])
    op.create_index("ix_jobs_unfinished", table, ["created_at"], **in_progress)
    op.create_index("ix_jobs_held", table, ["created_at"], sqlite_where=_HELD, postgresql_where=_HELD)
    op.create_index("ix_jobs_degraded", table, ["created_at"], sqlite_where=_DEGRADED, postgresql_where=_DEGRADED)
    op.create_index("ix_jobs_late", table, ["state"], sqlite_where=_LATE, postgresql_where=_LATE)
    waiting: dict[str, Any] = {"sqlite_where": _WAITING, "postgresql_where": _WAITING}
    op.create_index("ix_jobs_waiting", table, ["account", "waiting_since"], **waiting)
    op.create_index("ix_jobs_blocked", table, ["provider"], sqlite_where=_BLOCKED, postgresql_where=_BLOCKED)
    op.create_index("ix_jobs_flow_run", table, ["flow_run_id"])
    op.create_index("ix_jobs_sent", table, ["account", "sent_at"])
    op.create_index("ix_jobs_submitted", table, ["account", "submitted_at"])
    op.create_index("ix_jobs_project", table, ["project", *amounts])
    op.create_index("ix_jobs_account", table, ["account", *amounts])
    op.create_index("ix_jobs_created", table, ["created_at", *amounts])
    op.create_index("ix_jobs_key", table, ["key_fingerprint", "generation_id"], **accepted)
    op.create_index("ix_jobs_requester", table, ["requester", "created_at", *amounts])


def _create_history() -> None:
    op.create_table(
        "history",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("at", _INSTANT, nullable=False),
        sa.Column("from_state", sa.String),
        sa.Column("to_state", sa.String, nullable=False),
        sa.Column("detail", sa.Text),
        sa.Column("owner", sa.String),
    )
    op.create_index("ix_history_job", "history", ["job_id"])
    op.create_index("ix_history_sending", "history", ["at"], sqlite_where=_SENDING, postgresql_where=_SENDING)


def _forbid_history_changes() -> None:
    # Lines older than the mark in `ledger_identity` may be removed; nothing may be changed.
    kept = "COALESCE(OLD.at >= (SELECT pruned_before FROM ledger_identity), TRUE)"
    if op.get_bind().dialect.name == "sqlite":
        for change, condition in (("UPDATE", ""), ("DELETE", f"WHEN {kept} ")):
            op.execute(
                f"CREATE TRIGGER history_no_{change.lower()} BEFORE {change} ON history {condition}"
                "BEGIN SELECT RAISE(ABORT, 'history is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION history_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'history is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER history_append_only BEFORE UPDATE OR TRUNCATE ON history "
        "FOR EACH STATEMENT EXECUTE FUNCTION history_is_append_only()"
    )
    op.execute(
        "CREATE FUNCTION history_keeps_what_is_recent() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF {kept} THEN RAISE EXCEPTION 'history is append-only'; END IF; RETURN OLD; END $$"
    )
    op.execute(
        "CREATE TRIGGER history_removal BEFORE DELETE ON history "
        "FOR EACH ROW EXECUTE FUNCTION history_keeps_what_is_recent()"
    )


def _create_owners_and_accounts() -> None:
    op.create_table(
        "owners",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("heartbeat_at", _INSTANT, nullable=False),
    )
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
    op.create_table(
        "account_keys",
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("key_fingerprint", sa.String, primary_key=True),
        sa.Column("first_used_at", _INSTANT, nullable=False),
        sa.Column("last_used_at", _INSTANT, nullable=False),
        sa.Column("reminded_at", _INSTANT),
    )


def _create_copies_and_stores() -> None:
    op.create_table(
        "copies",
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("project", sa.String, primary_key=True),
        sa.Column("shot_id", sa.String, primary_key=True),
        sa.Column("asset", sa.Text, nullable=False),
    )
    op.create_table(
        "stores",
        sa.Column("url", sa.String, primary_key=True),
        sa.Column("store_id", sa.String, primary_key=True),
    )


def _create_prompts_and_keys() -> None:
    op.create_table(
        "allowed_prompts",
        sa.Column("fingerprint", sa.String, primary_key=True),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("at", _INSTANT, nullable=False),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("environment", sa.String, primary_key=True),
        sa.Column("requester", sa.String, primary_key=True),
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("request_digest", sa.String, nullable=False),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id")),
        sa.Column("created_at", _INSTANT, nullable=False),
    )
    op.create_index("ix_idempotency_keys_job", "idempotency_keys", ["job_id"])


def _create_choices() -> None:
    op.create_table(
        "choices",
        sa.Column("environment", sa.String, primary_key=True),
        sa.Column("project", sa.String, primary_key=True),
        sa.Column("shot_id", sa.String, primary_key=True),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("new_prompt", sa.Text),
        sa.Column("take", sa.Integer),
        sa.Column("fingerprint", sa.String),
        sa.Column("is_dropped", sa.Boolean, nullable=False),
        sa.Column("decided_by", sa.String, nullable=False),
        sa.Column("decided_at", _INSTANT, nullable=False),
    )


def _create_approval_requests() -> None:
    op.create_table(
        "approval_requests",
        sa.Column("environment", sa.String, primary_key=True),
        sa.Column("project", sa.String, primary_key=True),
        sa.Column("shot_id", sa.String, primary_key=True),
        sa.Column("takes", sa.Text, nullable=False),
        sa.Column("proposed", sa.Integer, nullable=False),
        sa.Column("asked_at", _INSTANT, nullable=False),
        sa.Column("due_at", _INSTANT),
        sa.Column("on_no_answer", sa.String, nullable=False),
    )


def _create_webhook_events() -> None:
    op.create_table(
        "webhook_events",
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("event_id", sa.String, primary_key=True),
        sa.Column("generation_id", sa.String, nullable=False),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("received_at", _INSTANT, nullable=False),
        sa.Column("handled_at", _INSTANT),
        sa.Column("reported", sa.Text),
    )
    op.create_index("ix_webhook_events_generation", "webhook_events", ["account", "generation_id"])
    op.create_index(
        "ix_webhook_events_pending",
        "webhook_events",
        ["received_at"],
        sqlite_where=_PENDING,
        postgresql_where=_PENDING,
    )


def _create_client_requests() -> None:
    op.create_table(
        "project_requests",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("environment", sa.String, nullable=False),
        sa.Column("requester", sa.Text, nullable=False),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("refresh", sa.Boolean, nullable=False),
        sa.Column("owner", sa.String),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("ended_at", _INSTANT),
        sa.Column("flow_run_id", sa.String),
        sa.Column("error", sa.Text),
    )
    op.create_table(
        "deferred_runs",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("environment", sa.String, nullable=False),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("credentials", sa.Text, nullable=False),
        sa.Column("store", sa.String, nullable=False),
        sa.Column("owner", sa.String),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("reported", sa.String),
    )
    op.create_table(
        "callbacks",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("environment", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("requester", sa.String, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("next_at", _INSTANT, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("ended_at", _INSTANT),
        sa.Column("error", sa.Text),
    )
    open_ended: dict[str, Any] = {"sqlite_where": _OPEN, "postgresql_where": _OPEN}
    op.create_index("ix_project_requests_open", "project_requests", ["created_at"], **open_ended)
    op.create_index("ix_callbacks_open", "callbacks", ["next_at"], **open_ended)


def _create_identity() -> None:
    identity = op.create_table(
        "ledger_identity", sa.Column("id", sa.String, primary_key=True), sa.Column("pruned_before", _INSTANT)
    )
    op.bulk_insert(identity, [{"id": str(uuid.uuid4())}])


_SUMS = ("spent_usd", "reserved_usd", "videos", "unpriced", "unpriced_reserved")
_NAMES = ("account", "environment", "project", "requester")
_PARTS = "committed_sums_part"


def _create_committed_sums() -> None:
    op.create_table(
        "committed_sums",
        sa.Column("scope", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("month", sa.String, primary_key=True),
        sa.Column("part", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _SUMS),
    )
    parts: dict[str, Any] = {"sqlite_where": sa.text("part <> 0"), "postgresql_where": sa.text("part <> 0")}
    op.create_index("ix_committed_sums_parts", "committed_sums", ["part"], **parts)


def _keep_committed_sums() -> None:
    # Triggers, not the code that changes jobs: whatever changes a job, in any process, changes the sums with it.
    add_new, subtract_old = _add_to_sums("NEW", "+"), _add_to_sums("OLD", "-")
    if op.get_bind().dialect.name == "sqlite":
        changed = f"({_committed('OLD')}) IS NOT ({_committed('NEW')})"
        for name, event, steps in (
            ("insert", "INSERT", f"{add_new};"),
            ("delete", "DELETE", f"{subtract_old};"),
            ("update", f"UPDATE ON jobs WHEN {changed}", f"{subtract_old}; {add_new};"),
        ):
            of_jobs = event if " " in event else f"{event} ON jobs"
            op.execute(f"CREATE TRIGGER committed_sums_{name} AFTER {of_jobs} BEGIN {steps} END")
        return
    op.execute(f"CREATE SEQUENCE {_PARTS} OWNED BY committed_sums.part")
    op.execute(
        "CREATE FUNCTION keep_committed_sums() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF TG_OP <> 'INSERT' THEN {subtract_old}; END IF; "
        f"IF TG_OP <> 'DELETE' THEN {add_new}; END IF; RETURN NULL; END $$"
    )
    keep = "FOR EACH ROW {}EXECUTE FUNCTION keep_committed_sums()"
    changed = f"WHEN (ROW({_committed('OLD')}) IS DISTINCT FROM ROW({_committed('NEW')})) "
    op.execute(f"CREATE TRIGGER committed_sums_rows AFTER INSERT OR DELETE ON jobs {keep.format('')}")
    op.execute(f"CREATE TRIGGER committed_sums_update AFTER UPDATE ON jobs {keep.format(changed)}")


def _add_to_sums(row: str, sign: str) -> str:
    """Write the statement that adds what a row of `jobs` contributes to its sums, or subtracts it."""
    names = " ".join(f"UNION ALL SELECT '{name}', {row}.{name}" for name in _NAMES)
    amounts = ", ".join(f"{sign}({amount})" for amount in _contribution(row))
    if op.get_bind().dialect.name == "sqlite":
        part, added = "0", ", ".join(f"{name} = committed_sums.{name} + excluded.{name}" for name in _SUMS)
        on_conflict = f" ON CONFLICT (scope, name, month, part) DO UPDATE SET {added}"
    else:
        # Each time a row of its own: several workers would wait for one another's, and a transaction that changes many
        # jobs would have to step over all versions of one.
        part, on_conflict = f"nextval('{_PARTS}')", ""
    return (
        f"INSERT INTO committed_sums (scope, name, month, part, {', '.join(_SUMS)}) "
        f"SELECT scope, name, {_month(row)}, {part}, {amounts} FROM (SELECT 'month' AS scope, '' AS name {names}) AS s "
        f"WHERE name IS NOT NULL{on_conflict}"
    )


def _contribution(row: str) -> tuple[str, ...]:
    """Write what a row of `jobs` contributes to each of `_SUMS`."""
    cost = f"COALESCE({row}.actual_usd, {row}.reserved_usd)"
    is_reserved = f"{row}.state IN ('reserved', 'submitting', 'unknown', 'submitted')"
    is_spent = f"{row}.state IN ('completed', 'stored', 'failed', 'cancelled', 'expired', 'lost')"
    is_free = f"{row}.state IN ('failed', 'cancelled') AND COALESCE({row}.actual_usd, 1) = 0"
    is_counted = f"{row}.state <> 'released' AND NOT ({is_free}) AND {row}.provider <> 'manual'"
    is_unpriced = f"{is_counted} AND {cost} IS NULL"
    return (
        f"CASE WHEN {is_spent} THEN COALESCE({cost}, 0) ELSE 0 END",
        f"CASE WHEN {is_reserved} THEN COALESCE({cost}, 0) ELSE 0 END",
        f"CASE WHEN {is_counted} THEN 1 ELSE 0 END",
        f"CASE WHEN {is_unpriced} THEN 1 ELSE 0 END",
        f"CASE WHEN {is_unpriced} AND {is_reserved} THEN 1 ELSE 0 END",
    )


def _committed(row: str) -> str:
    """Write all that decides to which sums a row of `jobs` contributes, and how much."""
    return ", ".join((*(f"{row}.{name}" for name in _NAMES), _month(row), *_contribution(row)))


def _month(row: str) -> str:
    if op.get_bind().dialect.name == "sqlite":
        return f"substr({row}.created_at, 1, 7)"
    return f"to_char(timezone('UTC', {row}.created_at), 'YYYY-MM')"


def _notify_of_changes() -> None:
    # A trigger, not the code that changes jobs: a change by any process of any version is announced.
    op.execute(
        "CREATE FUNCTION notify_job_changed() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_notify('prefect_video_jobs', NEW.id); RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER job_changed AFTER UPDATE OF state, hold_reason, owner ON jobs FOR EACH ROW "
        "WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.hold_reason IS DISTINCT FROM NEW.hold_reason "
        "OR OLD.owner IS DISTINCT FROM NEW.owner) EXECUTE FUNCTION notify_job_changed()"
    )
