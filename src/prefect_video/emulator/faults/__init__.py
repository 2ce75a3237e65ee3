"""Faults: rules that make the emulator misbehave on demand, and the broken responses that they produce.

May import the engine, from `injection` only; everything else here depends on nothing of the emulator, so that the
settings and the engine can use it. `injection` is therefore imported by its own path.
"""

from prefect_video.emulator.faults.broken_lists import distort_page, is_due
from prefect_video.emulator.faults.rules import (
    FaultMatch,
    FaultRule,
    FaultRules,
    Operation,
    load_faults,
    parse_faults,
)

__all__ = [
    "FaultMatch",
    "FaultRule",
    "FaultRules",
    "Operation",
    "distort_page",
    "is_due",
    "load_faults",
    "parse_faults",
]
