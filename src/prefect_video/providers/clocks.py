"""Clock of a provider, estimated from its responses: decides which generations are certainly older than a request."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

CLOCK_MARGIN: Final = timedelta(minutes=2)
"""Usual deviation of the times of generations from their provider's clock."""
_OLDER_MARGIN: Final = timedelta(days=1)
"""Deviation that no clock of a provider has: its servers may differ by minutes, or by hours in a wrong time zone."""
_REUSE_MARGIN: Final = timedelta(seconds=30)
"""Time by which a generation must be younger than its record for its id to count as given out twice."""
_STEP_SECONDS: Final = 2.0
"""Drift of this machine's clock against the monotonic one from which it counts as having been set."""


@dataclass(frozen=True)
class ClockReading:
    """Offset of a provider's clock from ours, estimated with the help of one list.

    Attributes:
        lower: Lower bound of the offset; None when nothing is known.
        likely: Likely offset.
        upper: Approximate upper bound of the offset.
    """

    lower: timedelta | None
    likely: timedelta
    upper: timedelta

    def is_older(self, created_at: datetime | None, moment: datetime) -> bool:
        """Return whether a generation was certainly created before a time of our clock; False without a time."""
        return self.lower is not None and created_at is not None and created_at < moment + self.lower - _OLDER_MARGIN

    def is_likely_since(self, created_at: datetime | None, moment: datetime) -> bool:
        """Return whether a generation was probably created since a time of our clock."""
        return created_at is not None and created_at >= moment + self.likely - CLOCK_MARGIN

    def is_reused(self, created_at: datetime | None, recorded_at: datetime) -> bool:
        """Return whether a generation is younger than the ledger's record of its id, so that the id was reused."""
        return created_at is not None and created_at > recorded_at + self.upper + _REUSE_MARGIN


class ProviderClock:
    """Estimator of the clock offset of an account, from its responses to submits."""

    def __init__(self) -> None:
        self._observed: deque[tuple[timedelta, float]] = deque(maxlen=20)

    def observe(self, created_at: datetime | None) -> None:
        """Record the time of a generation that was accepted just now."""
        if created_at is not None:
            # The difference of the two clocks shows later whether ours was set in the meantime.
            self._observed.append((created_at - datetime.now(UTC), time.time() - time.monotonic()))

    def read(
        self, date_offset: timedelta, created: Mapping[str, datetime], recorded: Mapping[str, datetime]
    ) -> ClockReading:
        """Estimate the offset from submits, dates of responses and records of the ledger.

        Args:
            date_offset: Offset of the date of the last response from our clock.
            created: Creation times of generations, by the provider's clock.
            recorded: Times when the ledger recorded them, by ours.
        """
        observed = list(self._find_valid())
        upper = max([date_offset, *observed])
        records = [
            offset
            for name in created.keys() & recorded.keys()
            if (offset := created[name] - recorded[name]) <= upper + _REUSE_MARGIN
        ]
        offsets = [*observed, *records]
        if not offsets:
            return ClockReading(lower=None, likely=date_offset, upper=upper)
        # A generation is recorded some time after its creation, so that each offset is a lower bound. So is the date's:
        # either clock may have been set since.
        return ClockReading(
            lower=min(*offsets, date_offset),
            likely=statistics.median_high(observed or records),
            upper=upper,
        )

    def _find_valid(self) -> Iterable[timedelta]:
        now = time.time() - time.monotonic()
        return (offset for offset, difference in self._observed if abs(difference - now) < _STEP_SECONDS)
