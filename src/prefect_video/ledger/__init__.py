"""The ledger of all generations: prompt cache, single flight, budgets, and what recovery works from."""

from prefect_video.ledger.hold_reasons import HoldReason, command_line, hold_message
from prefect_video.ledger.ledger import Ledger
from prefect_video.ledger.records import (
    OCCUPYING,
    TRANSITIONS,
    UNFINISHED,
    AccountStatus,
    Budget,
    BudgetUsage,
    ClaimBatch,
    ClaimOutcome,
    ClaimResult,
    HistoryEntry,
    Job,
    JobRequest,
    ReceivedEvent,
    SpendRow,
    State,
)
from prefect_video.ledger.urls import default_ledger_url

__all__ = [
    "OCCUPYING",
    "TRANSITIONS",
    "UNFINISHED",
    "AccountStatus",
    "Budget",
    "BudgetUsage",
    "ClaimBatch",
    "ClaimOutcome",
    "ClaimResult",
    "HistoryEntry",
    "HoldReason",
    "Job",
    "JobRequest",
    "Ledger",
    "ReceivedEvent",
    "SpendRow",
    "State",
    "command_line",
    "default_ledger_url",
    "hold_message",
]
