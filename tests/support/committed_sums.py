"""Sums of what is committed: as the ledger keeps them, and as its jobs give them anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

JOBS: Final = (
    "SELECT state, provider, actual_usd, reserved_usd, account, environment, project, requester, created_at FROM jobs"
)
KEPT: Final = (
    "SELECT scope, name, month, SUM(spent_usd), SUM(reserved_usd), SUM(videos), SUM(unpriced), SUM(unpriced_reserved)"
    " FROM committed_sums GROUP BY scope, name, month"
)
Sums = dict[tuple[str, str, str], list[int]]

_SCOPES: Final = ("account", "environment", "project", "requester")
_IN_PROGRESS: Final = ("reserved", "submitting", "unknown", "submitted")


def kept_sums(rows: Iterable[Any]) -> Sums:
    """Return the sums of the rows of `KEPT` that are not all zero."""
    sums = {(scope, name, month): [int(value) for value in values] for scope, name, month, *values in rows}
    return {key: values for key, values in sums.items() if any(values)}


def sums_anew(rows: Iterable[Any]) -> Sums:
    """Sum the rows of `JOBS` by scope, name and month; what is all zero is left out."""
    sums: Sums = defaultdict(lambda: [0] * 5)
    for state, provider, actual, reserved, *names, created_at in rows:
        month = f"{created_at.astimezone(UTC):%Y-%m}" if isinstance(created_at, datetime) else created_at[:7]
        cost = reserved if actual is None else actual
        in_progress = state in _IN_PROGRESS
        is_free = state == "released" or (state in ("failed", "cancelled") and actual == 0)
        is_counted = not is_free and provider != "manual"
        values = [
            0 if state == "released" or in_progress else cost or 0,
            cost or 0 if in_progress else 0,
            is_counted,
            is_counted and cost is None,
            is_counted and cost is None and in_progress,
        ]
        for scope, name in (("month", ""), *zip(_SCOPES, names, strict=True)):
            if name is not None:
                kept = sums[scope, name, month]
                kept[:] = [before + int(value) for before, value in zip(kept, values, strict=True)]
    return {key: values for key, values in sums.items() if any(values)}
