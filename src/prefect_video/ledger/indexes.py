"""The indexes of the ledger's tables, for migrations to compare a database with.

Apart from the tables, which every command imports: an index that names a database's options loads that database's
dialect and drivers.
"""

from __future__ import annotations

from sqlalchemy import Index

from prefect_video.ledger.late_reservations import OF_LATE
from prefect_video.ledger.prompt_reviews import OF_BLOCKED
from prefect_video.ledger.tables import (
    IS_SENDING,
    IS_UNFINISHED,
    callbacks,
    committed_sums,
    history,
    idempotency_keys,
    jobs_table,
    project_requests,
    webhook_events,
)

_held = jobs_table.c.hold_reason.is_not(None)
_accepted = jobs_table.c.generation_id.is_not(None)

# The backstop of single flight: whatever the code does, no fingerprint is in progress twice.
Index(
    "uq_jobs_in_progress",
    jobs_table.c.environment,
    jobs_table.c.fingerprint,
    unique=True,
    sqlite_where=IS_UNFINISHED,
    postgresql_where=IS_UNFINISHED,
)
Index(
    "uq_jobs_generation",
    jobs_table.c.account,
    jobs_table.c.generation_id,
    unique=True,
    sqlite_where=_accepted,
    postgresql_where=_accepted,
)
Index(
    "ix_jobs_fingerprint",
    jobs_table.c.environment,
    jobs_table.c.fingerprint,
    jobs_table.c.state,
)
Index(
    "ix_jobs_unfinished",
    jobs_table.c.created_at,
    sqlite_where=IS_UNFINISHED,
    postgresql_where=IS_UNFINISHED,
)
# Few jobs wait for a human, and a search for them must not read all others.
Index("ix_jobs_held", jobs_table.c.created_at, sqlite_where=_held, postgresql_where=_held)
Index(
    "ix_jobs_key",
    jobs_table.c.key_fingerprint,
    jobs_table.c.generation_id,
    sqlite_where=_accepted,
    postgresql_where=_accepted,
)
_degraded = jobs_table.c.degraded.is_not(None)
Index("ix_jobs_degraded", jobs_table.c.created_at, sqlite_where=_degraded, postgresql_where=_degraded)
Index("ix_jobs_late", jobs_table.c.state, sqlite_where=OF_LATE, postgresql_where=OF_LATE)
_waiting = jobs_table.c.waiting_since.is_not(None)
Index(
    "ix_jobs_waiting",
    jobs_table.c.account,
    jobs_table.c.waiting_since,
    sqlite_where=_waiting,
    postgresql_where=_waiting,
)
Index("ix_jobs_blocked", jobs_table.c.provider, sqlite_where=OF_BLOCKED, postgresql_where=OF_BLOCKED)
Index("ix_jobs_flow_run", jobs_table.c.flow_run_id)
Index("ix_jobs_sent", jobs_table.c.account, jobs_table.c.sent_at)
Index("ix_jobs_submitted", jobs_table.c.account, jobs_table.c.submitted_at)

# The indexes that reports are summed over hold the amounts too, so that no row need be read.
for _name, _scope in (
    ("ix_jobs_project", jobs_table.c.project),
    ("ix_jobs_account", jobs_table.c.account),
    ("ix_jobs_created", jobs_table.c.created_at),
):
    Index(_name, _scope, jobs_table.c.state, jobs_table.c.actual_usd, jobs_table.c.reserved_usd)

Index(
    "ix_jobs_requester",
    jobs_table.c.requester,
    jobs_table.c.created_at,
    jobs_table.c.state,
    jobs_table.c.actual_usd,
    jobs_table.c.reserved_usd,
)

for _name, _due, _ended in (
    ("ix_project_requests_open", project_requests.c.created_at, project_requests.c.ended_at),
    ("ix_callbacks_open", callbacks.c.next_at, callbacks.c.ended_at),
):
    Index(_name, _due, sqlite_where=_ended.is_(None), postgresql_where=_ended.is_(None))

Index("ix_history_job", history.c.job_id)
Index("ix_idempotency_keys_job", idempotency_keys.c.job_id)
Index("ix_history_sending", history.c.at, sqlite_where=IS_SENDING, postgresql_where=IS_SENDING)

_not_added_up = committed_sums.c.part != 0
Index("ix_committed_sums_parts", committed_sums.c.part, sqlite_where=_not_added_up, postgresql_where=_not_added_up)

_pending = webhook_events.c.handled_at.is_(None)
Index("ix_webhook_events_generation", webhook_events.c.account, webhook_events.c.generation_id)
Index(
    "ix_webhook_events_pending",
    webhook_events.c.received_at,
    sqlite_where=_pending,
    postgresql_where=_pending,
)
