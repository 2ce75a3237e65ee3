"""Rate limiter: requests evenly spaced in time."""

from __future__ import annotations

import asyncio


class RateLimiter:
    """A limiter of requests a minute, evenly spaced and in order of arrival.

    Args:
        per_minute: Most requests a minute; None for no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._free_at = 0.0

    async def acquire(self) -> None:
        """Wait until the caller may go on."""
        now = asyncio.get_running_loop().time()
        starts_at = max(now, self._free_at)
        # Taken before the sleep: the next caller queues behind this one.
        self._free_at = starts_at + self._interval
        if starts_at > now:
            await asyncio.sleep(starts_at - now)
