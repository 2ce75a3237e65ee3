"""A provider's clock, as far as its generations show it: what is certainly older than a request, and what is not."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

CLOCK_MARGIN: Final = timedelta(minutes=2)
"""How far the times of generations may be from their clock."""
_REUSE_MARGIN: Final = timedelta(seconds=30)
"""How much younger than its record a generation must be for its id to be one that was given out twice."""
_STEP_SECONDS: Final = 2.0
"""How far this machine's clock may drift from the monotonic one before it counts as having been set."""


@dataclass(frozen=True)
class ClockReading:
    """How a provider's clock stands to ours, in the light of one list.

    Attributes:
        lower: The provider is at least this far ahead; None when nothing is known.
        likely: The provider is about this far ahead.
        upper: The provider is hardly farther ahead than this.
    """

    lower: timedelta | None
    likely: timedelta
    upper: timedelta

    def is_older(self, created_at: datetime | None, moment: datetime, *, by: timedelta = CLOCK_MARGIN) -> bool:
        """Return whether a generation was certainly made before a moment of our clock; no time proves nothing."""
        return self.lower is not None and created_at is not None and created_at < moment + self.lower - by

    def is_likely_since(self, created_at: datetime | None, moment: datetime) -> bool:
        """Return whether a generation was, by all that is known, made since a moment of our clock."""
        return created_at is not None and created_at >= moment + self.likely - CLOCK_MARGIN

    def is_reused(self, created_at: datetime | None, recorded_at: datetime) -> bool:
        """Return whether a generation is younger than the ledger's record of its id, so that the id has begun anew."""
        return created_at is not None and created_at > recorded_at + self.upper + _REUSE_MARGIN


class ProviderClock:
    """Learns the offset of an account's clock from its answers to submits."""

    def __init__(self) -> None:
        self._observed: deque[tuple[timedelta, float]] = deque(maxlen=20)

    def observe(self, created_at: datetime | None) -> None:
        """Note the time of a generation that was accepted just now."""
        if created_at is not None:
            self._observed.append((created_at - datetime.now(UTC), time.time() - time.monotonic()))

    def read(
        self, date_offset: timedelta, created: Mapping[str, datetime], recorded: Mapping[str, datetime]
    ) -> ClockReading:
        """Combine what is known about the clock.

        Args:
            date_offset: How far the date of its last answer is ahead of our clock.
            created: When generations were made, by the provider's clock.
            recorded: When the ledger wrote them down, by ours.
        """
        observed = list(self._valid())
        upper = max([date_offset, *observed])
        records = [
            offset
            for name in created.keys() & recorded.keys()
            if (offset := created[name] - recorded[name]) <= upper + _REUSE_MARGIN
        ]
        offsets = [*observed, *records]
        if not offsets:
            return ClockReading(lower=None, likely=date_offset, upper=upper)
        # A generation is written down some time after it was made, so that each is a lower bound. The date, too: by one
        # of these clocks the other may have been set since.
        return ClockReading(
            lower=min(*offsets, date_offset),
            likely=statistics.median_high(observed or records),
            upper=upper,
        )

    def _valid(self) -> Iterable[timedelta]:
        now = time.time() - time.monotonic()
        return (offset for offset, difference in self._observed if abs(difference - now) < _STEP_SECONDS)
