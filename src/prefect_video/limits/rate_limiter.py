"""Pacing: requests evenly spaced in time."""

from __future__ import annotations

import asyncio


class RateLimiter:
    """Lets at most so many pass a minute, evenly spaced and in order of arrival.

    Args:
        per_minute: How many; None for no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._free_at = 0.0

    async def acquire(self) -> None:
        """Returns when the caller may go on."""
        now = asyncio.get_running_loop().time()
        turn = max(now, self._free_at)
        self._free_at = turn + self._interval
        if turn > now:
            await asyncio.sleep(turn - now)
