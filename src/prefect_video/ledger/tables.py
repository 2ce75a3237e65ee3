"""The ledger's tables, and how money, times and records are kept in their columns."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    select,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from prefect_video.assets import Asset
from prefect_video.generations import Generation
from prefect_video.ledger.records import UNFINISHED, Job, Requester, State
from prefect_video.ledger.row_records import Json, record_from_row, share_field_names
from prefect_video.projects import Project
from prefect_video.quality import Quality, QualityPolicy
from prefect_video.shots import Shot

_MICRO: Final = Decimal("0.000001")
_NAMES: Final = 1024
"""Different names that are kept."""


class Money(TypeDecorator[Decimal]):
    """USD as whole millionths, so that sums are exact in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        return None if value is None else int(rounded(value).scaleb(6))

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        # A sum over BIGINT is NUMERIC on PostgreSQL and comes back as Decimal.
        return None if value is None else Decimal(int(value)).scaleb(-6)


class Instant(TypeDecorator[datetime]):
    """An aware UTC time: `timestamptz` on PostgreSQL, ISO text of fixed width (so it sorts) on SQLite."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        kind = TIMESTAMP(timezone=True) if dialect.name == "postgresql" else String()
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r}: the ledger takes aware times only")
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if isinstance(value, datetime) else datetime.fromisoformat(value)


class Name(TypeDecorator[str]):
    """A name that many rows have, such as that of a project or an account: equal ones that are read are one string."""

    impl = String
    cache_ok = True
    _share = staticmethod(lru_cache(_NAMES)(str))

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else self._share(value)


class StateName(TypeDecorator[State]):
    """A `State` by its name."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: State | None, dialect: Dialect) -> str | None:
        return None if value is None else State(value).value

    def process_result_value(self, value: Any, dialect: Dialect) -> State | None:
        return None if value is None else State(value)


def rounded(amount: Decimal) -> Decimal:
    """Round an amount in USD to the millionth, as the ledger keeps it."""
    return amount.quantize(_MICRO, rounding=ROUND_HALF_EVEN)


VERSION_TABLE: Final = "ledger_version"
"""Table of the schema's version; Alembic's usual name may belong to another program in a shared database."""

metadata = MetaData()

jobs_table = Table(
    "jobs",
    metadata,
    Column("id", String, primary_key=True),
    Column("state", StateName, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("shot", Json(Shot, gives_back=True), nullable=False),
    Column("model", Name, nullable=False),
    Column("take", Integer, nullable=False),
    Column("project", Name, nullable=False),
    Column("provider", Name, nullable=False),
    Column("account", Name, nullable=False),
    Column("environment", Name, nullable=False),
    Column("credentials", Name, nullable=False),
    Column("store", Name, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("owner", Name),
    Column("generation_id", String),
    Column("request_id", String),
    Column("reserved_usd", Money),
    Column("actual_usd", Money),
    Column("flow_run_id", Name),
    Column("task_run_id", String),
    Column("created_at", Instant, nullable=False),
    Column("sent_at", Instant),
    Column("submitted_at", Instant),
    Column("completed_at", Instant),
    Column("stored_at", Instant),
    Column("updated_at", Instant, nullable=False),
    Column("estimated_completion_at", Instant),
    Column("deadline_at", Instant),
    Column("expires_at", Instant),
    Column("error_type", String),
    Column("error_message", Text),
    Column("hold_reason", Text),
    Column("asset", Json(Asset)),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("waiting_since", Instant),
    Column("unknown_at", Instant),
    Column("disputed_usd", Money),
    Column("store_id", Name),
    Column("on_mismatch", Name),
    Column("left_count", Integer, nullable=False, server_default="0"),
    Column("left_reason", Text),
    Column("seconds_taken", Float),
    Column("max_attempts", Integer, nullable=False, server_default="2"),
    Column("quality_policy", Json(QualityPolicy)),
    Column("quality", Json(Quality)),
    Column("requester", Name),
    Column("key_fingerprint", Name),
    Column("traceparent", String),
    Column("degraded", Text),
)

history = Table(
    "history",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("job_id", String, ForeignKey("jobs.id"), nullable=False),
    Column("at", Instant, nullable=False),
    Column("from_state", StateName),
    Column("to_state", StateName, nullable=False),
    Column("detail", Text),
    Column("owner", String),
)
owners = Table(
    "owners",
    metadata,
    Column("id", String, primary_key=True),
    Column("host", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("heartbeat_at", Instant, nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", String, primary_key=True),
    Column("slots", Integer),
    Column("slots_at", Instant),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("open_until", Instant),
    Column("probing_until", Instant),
    Column("quota_until", Instant),
)

account_keys = Table(
    "account_keys",
    metadata,
    Column("account", String, primary_key=True),
    Column("key_fingerprint", String, primary_key=True),
    Column("first_used_at", Instant, nullable=False),
    Column("last_used_at", Instant, nullable=False),
    Column("reminded_at", Instant),
)
"""Keys that accounts have been used with, each by its fingerprint: how old it is, and when it was used last."""

ledger_identity = Table(
    "ledger_identity",
    metadata,
    Column("id", String, primary_key=True),
    Column("pruned_before", Instant),
)
"""One row: the UUID by which sidecars in a store name the ledger; a backup shares it with what it is a backup of.

Lines of history from before `pruned_before` may be removed; the others are append-only.
"""

copies = Table(
    "copies",
    metadata,
    Column("job_id", String, ForeignKey("jobs.id"), primary_key=True),
    Column("project", String, primary_key=True),
    Column("shot_id", String, primary_key=True),
    Column("asset", Json(Asset), nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("environment", String, primary_key=True),
    Column("requester", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("request_digest", String, nullable=False),
    Column("account", String, nullable=False),
    Column("job_id", String, ForeignKey("jobs.id")),
    Column("created_at", Instant, nullable=False),
)

stores = Table(
    "stores",
    metadata,
    Column("url", String, primary_key=True),
    Column("store_id", String, primary_key=True),
)

allowed_prompts = Table(
    "allowed_prompts",
    metadata,
    Column("fingerprint", String, primary_key=True),
    Column("note", Text, nullable=False),
    Column("at", Instant, nullable=False),
)

choices = Table(
    "choices",
    metadata,
    Column("environment", String, primary_key=True),
    Column("project", String, primary_key=True),
    Column("shot_id", String, primary_key=True),
    Column("prompt", Text, nullable=False),
    Column("new_prompt", Text),
    Column("take", Integer),
    Column("fingerprint", String),
    Column("is_dropped", Boolean, nullable=False),
    Column("decided_by", String, nullable=False),
    Column("decided_at", Instant, nullable=False),
)

approval_requests = Table(
    "approval_requests",
    metadata,
    Column("environment", String, primary_key=True),
    Column("project", String, primary_key=True),
    Column("shot_id", String, primary_key=True),
    Column("takes", Json(dict[int, str]), nullable=False),
    Column("proposed", Integer, nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("due_at", Instant),
    Column("on_no_answer", String, nullable=False),
)

webhook_events = Table(
    "webhook_events",
    metadata,
    Column("account", String, primary_key=True),
    Column("event_id", String, primary_key=True),
    Column("generation_id", String, nullable=False),
    Column("type", String, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("handled_at", Instant),
    Column("reported", Json(Generation)),
)

project_requests = Table(
    "project_requests",
    metadata,
    Column("id", String, primary_key=True),
    Column("environment", String, nullable=False),
    Column("requester", Json(Requester), nullable=False),
    Column("project", Json(Project), nullable=False),
    Column("refresh", Boolean, nullable=False),
    Column("owner", String),
    Column("created_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("flow_run_id", String),
    Column("error", Text),
)
"""Projects that clients of the service have requested, each kept until its run has ended."""

deferred_runs = Table(
    "deferred_runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("environment", String, nullable=False),
    Column("project", Json(Project), nullable=False),
    Column("credentials", Json(tuple[str, ...]), nullable=False),
    Column("store", String, nullable=False),
    Column("owner", String),
    Column("created_at", Instant, nullable=False),
    Column("reported", String),
)
"""Runs that have left their shots at the provider, each kept until the film and the page of its project are made."""

callbacks = Table(
    "callbacks",
    metadata,
    Column("id", String, primary_key=True),
    Column("environment", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("requester", String, nullable=False),
    Column("url", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("next_at", Instant, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("ended_at", Instant),
    Column("error", Text),
)
"""Addresses that clients of the service want to be called at when a job or a project has ended."""

committed_sums = Table(
    "committed_sums",
    metadata,
    Column("scope", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("month", String, primary_key=True),
    Column("part", BigInteger, primary_key=True, autoincrement=False),
    Column("spent_usd", Money, nullable=False),
    Column("reserved_usd", Money, nullable=False),
    Column("videos", BigInteger, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    Column("unpriced_reserved", BigInteger, nullable=False),
)
"""What is committed in each calendar month: as a whole, and for each account, environment, project and requester.

Triggers of the database change it with each row of `jobs`, in the same transaction, and nothing else does. A sum is
that of its parts: on PostgreSQL each change adds one of its own, and the next claim adds those up into part 0.
"""

IS_UNFINISHED: Final = text(f"state IN ({', '.join(repr(state.value) for state in sorted(UNFINISHED))})")
"""Condition of jobs in progress, in the words of their indexes: SQLite uses those for exactly these words only.

For searches that no other index narrows down: they would read all jobs, of which few are in progress.
"""

IS_SENDING: Final = text("to_state = 'submitting'")
"""Condition of the lines of history about submits, likewise in the words of their index."""

JOB_COLUMNS: Final = tuple(jobs_table.c[name] for name in Job.model_fields)
JOBS: Final = select(*JOB_COLUMNS)
"""Start of every query for whole rows, built once: building it costs more than running it."""


def job_from_row(row: Row[Any]) -> Job:
    """Build the record of a row that was selected by `JOB_COLUMNS`.

    Raises:
        UnreadableRow: A column does not hold what it should.
    """
    return record_from_row(row, Job, jobs_table.name)


def job_from_values(values: Mapping[str, Any]) -> Job:
    """Build the record of a row that was inserted with these values."""
    return share_field_names(Job.model_validate({column.name: values[column.name] for column in JOB_COLUMNS}))
