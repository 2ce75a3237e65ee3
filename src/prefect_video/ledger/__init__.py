"""The ledger of all generations: prompt cache, single flight, budgets, and what recovery works from."""

from prefect_video.ledger.hold_reasons import HoldReason, command_line, hold_message
from prefect_video.ledger.ledger import Ledger
from prefect_video.ledger.records import (
    OCCUPYING,
    TRANSITIONS,
    UNFINISHED,
    Budget,
    BudgetStanding,
    Claim,
    ClaimBatch,
    ClaimOutcome,
    Entry,
    Intent,
    ReceivedEvent,
    Spend,
    Standing,
    State,
    Step,
)
from prefect_video.ledger.urls import default_ledger_url

__all__ = [
    "OCCUPYING",
    "TRANSITIONS",
    "UNFINISHED",
    "Budget",
    "BudgetStanding",
    "Claim",
    "ClaimBatch",
    "ClaimOutcome",
    "Entry",
    "HoldReason",
    "Intent",
    "Ledger",
    "ReceivedEvent",
    "Spend",
    "Standing",
    "State",
    "Step",
    "command_line",
    "default_ledger_url",
    "hold_message",
]
