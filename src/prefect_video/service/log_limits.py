"""Limits on logs that strangers can cause: one line a minute for each place that logs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

INTERVAL_SECONDS: Final = 60.0
_LOGGERS: Final = (
    "asyncio",
    "uvicorn.error",
    "prefect_video.service.app",
    "prefect_video.service.connections",
    "prefect_video.service.known_hosts",
)
"""Loggers of what any connection can cause."""


@dataclass
class _Place:
    logged_at: float
    suppressed: int = 0


class RepeatLimit(logging.Filter):
    """A filter that passes one record a minute of each place in the code, with the number of those in between."""

    def __init__(self) -> None:
        super().__init__()
        # By place and not by text, which may hold anything: the number of places is bounded.
        self._places: dict[tuple[str, int], _Place] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide about a record."""
        key, now = (record.pathname, record.lineno), time.monotonic()
        place = self._places.get(key)
        if place is not None and now - place.logged_at < INTERVAL_SECONDS:
            place.suppressed += 1
            return False
        self._places[key] = _Place(now)
        if place is not None and place.suppressed:
            record.msg = f"{record.getMessage()} (and {place.suppressed} more since)"
            record.args = None
        return True


@contextmanager
def limited_logs() -> Iterator[None]:
    """Limit the logs of a server for as long as the context lasts."""
    limit = RepeatLimit()
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(limit)
    try:
        yield
    finally:
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(limit)
