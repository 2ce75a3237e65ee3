"""Ledger: the database of all jobs; prompt cache, single-flight lock and spend record at once.

SQLite by default, PostgreSQL in production. May import the records (errors, shots, generations, assets), nothing else.
"""

from prefect_video._amounts import PRICE_UNKNOWN, as_number, usd, usd_sum
from prefect_video.ledger.account_keys import KeyUse
from prefect_video.ledger.account_limits import queue_rank
from prefect_video.ledger.account_queues import AccountQueue
from prefect_video.ledger.approval_requests import ApprovalRequest
from prefect_video.ledger.budgets import Limit, describe_nearly_used
from prefect_video.ledger.callbacks import Callback
from prefect_video.ledger.choices import Choice
from prefect_video.ledger.claims import ClaimBatch, row_from_request
from prefect_video.ledger.cost_bound import DEFAULT_COST_BOUND, CostBound, cost_columns, with_dispute
from prefect_video.ledger.deferred_runs import DeferredRun
from prefect_video.ledger.hold_reasons import PROGRAM, HoldReason, command_line, hold_message, is_given_up
from prefect_video.ledger.idempotency_keys import BoundKey
from prefect_video.ledger.late_reservations import LATE_PREFIX, is_late
from prefect_video.ledger.ledger import Ledger
from prefect_video.ledger.log_lines import describe_job
from prefect_video.ledger.measurements import OTHER_REASON, AccountMeasurement, Measurement
from prefect_video.ledger.project_requests import ProjectRequest
from prefect_video.ledger.queries import LEFT_OFTEN
from prefect_video.ledger.records import (
    OCCUPYING,
    PARTS_PREFIX,
    REQUEST_PREFIX,
    TRANSITIONS,
    UNFINISHED,
    UNSENT,
    AccountStatus,
    Budget,
    BudgetUsage,
    ClaimOutcome,
    ClaimResult,
    CommittedSums,
    CompletionTime,
    HistoryEntry,
    Job,
    JobPosition,
    JobRequest,
    MismatchPolicy,
    NumberedEntry,
    Priority,
    Requester,
    SpendRow,
    State,
    StoredMatch,
    WorkKind,
)
from prefect_video.ledger.retention import Removal
from prefect_video.ledger.row_records import share_field_names
from prefect_video.ledger.tables import history, job_from_values, jobs_table, webhook_events
from prefect_video.ledger.urls import URL_VARIABLE, default_ledger_url, parse_database_url
from prefect_video.ledger.webhook_events import ReceivedEvent

__all__ = [
    "DEFAULT_COST_BOUND",
    "LATE_PREFIX",
    "LEFT_OFTEN",
    "OCCUPYING",
    "OTHER_REASON",
    "PARTS_PREFIX",
    "PRICE_UNKNOWN",
    "PROGRAM",
    "REQUEST_PREFIX",
    "TRANSITIONS",
    "UNFINISHED",
    "UNSENT",
    "URL_VARIABLE",
    "AccountMeasurement",
    "AccountQueue",
    "AccountStatus",
    "ApprovalRequest",
    "BoundKey",
    "Budget",
    "BudgetUsage",
    "Callback",
    "Choice",
    "ClaimBatch",
    "ClaimOutcome",
    "ClaimResult",
    "CommittedSums",
    "CompletionTime",
    "CostBound",
    "DeferredRun",
    "HistoryEntry",
    "HoldReason",
    "Job",
    "JobPosition",
    "JobRequest",
    "KeyUse",
    "Ledger",
    "Limit",
    "Measurement",
    "MismatchPolicy",
    "NumberedEntry",
    "Priority",
    "ProjectRequest",
    "ReceivedEvent",
    "Removal",
    "Requester",
    "SpendRow",
    "State",
    "StoredMatch",
    "WorkKind",
    "as_number",
    "command_line",
    "cost_columns",
    "default_ledger_url",
    "describe_job",
    "describe_nearly_used",
    "history",
    "hold_message",
    "is_given_up",
    "is_late",
    "job_from_values",
    "jobs_table",
    "parse_database_url",
    "queue_rank",
    "row_from_request",
    "share_field_names",
    "usd",
    "usd_sum",
    "webhook_events",
    "with_dispute",
]
