"""Request budget: how many requests a minute may look for ends."""

from __future__ import annotations

import asyncio
import math
from typing import Final

_BURST_SHARE: Final = 1 / 3
"""Share of a minute's requests that may be sent at once; the others are spread, so that no minute has more."""
_ROUNDING: Final = 1e-6


class RequestBudget:
    """A token bucket; a request that was not in vain can be refunded.

    Args:
        per_minute: Most requests in any minute; infinity for no limit.
    """

    def __init__(self, per_minute: float = math.inf) -> None:
        self._burst = max(1.0, per_minute * _BURST_SHARE)
        self._per_second = max(per_minute - self._burst, per_minute / 2) / 60.0
        self._left = self._burst
        self._counted_at: float | None = None

    def affordable(self) -> float:
        """Return how many requests may be sent now; a whole number, but for infinity."""
        left = self._refill()
        return left if math.isinf(left) else max(0.0, math.floor(left + _ROUNDING))

    def seconds_until_affordable(self) -> float:
        """Return the seconds until a request may be sent; 0 where one may be sent now."""
        return 0.0 if self.affordable() >= 1 else (1.0 - self._refill()) / self._per_second

    def spend(self, requests: int) -> None:
        """Count requests; a list of several pages may be paid for later."""
        self._left = self._refill() - requests

    def refund(self) -> None:
        """Count one request less: it found an end, and would have been needed anyway."""
        self._left = min(self._burst, self._refill() + 1.0)

    def _refill(self) -> float:
        if math.isinf(self._burst):
            return math.inf
        now = asyncio.get_running_loop().time()
        if self._counted_at is not None:
            self._left = min(self._burst, self._left + (now - self._counted_at) * self._per_second)
        self._counted_at = now
        return self._left
