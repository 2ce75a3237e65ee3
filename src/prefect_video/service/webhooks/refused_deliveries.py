"""The log of refused deliveries: one line a minute at most, whatever arrives."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Final

logger = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 60.0
_REASONS_LIMIT: Final = 20
_REASON_CHARACTERS: Final = 200
_OTHER: Final = "other reasons"


class RefusalLog:
    """Counts of refused deliveries by reason: the first is logged at once, the following ones together a minute later.

    Anyone can send deliveries, so neither the log nor the memory may grow with their number.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def count(self, reason: str) -> None:
        """Count a refused delivery."""
        reason = reason[:_REASON_CHARACTERS]
        self._counts[reason if reason in self._counts or len(self._counts) < _REASONS_LIMIT else _OTHER] += 1
        if self._timer is None:
            self._flush()

    def close(self) -> None:
        """Log what was counted since the last line."""
        if self._timer is not None:
            self._timer.cancel()
        self._log()

    def _flush(self) -> None:
        self._timer = None
        if self._log():
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_SECONDS, self._flush)

    def _log(self) -> bool:
        """Log the counts and begin anew; return False if there was nothing to log."""
        if not self._counts:
            return False
        reasons = "; ".join(f"{count} x {reason}" for reason, count in self._counts.most_common())
        logger.warning("webhook deliveries were refused: %s", reasons)
        self._counts.clear()
        return True
