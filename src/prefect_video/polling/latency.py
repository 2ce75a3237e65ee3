"""Latency cache: how long a provider's past generations have taken, by kind of shot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from prefect_video.errors import LedgerError
from prefect_video.ledger import LatencyQuantiles, Ledger, WorkKind
from prefect_video.shots import Shot

logger = logging.getLogger(__name__)


class LatencyCache:
    """A cache of a provider's latency quantiles; one query per refresh, however many callers there are.

    Args:
        ledger: The ledger that holds past generations.
        provider: The provider's name.
        refresh_seconds: Seconds for which the cached quantiles are used.
    """

    def __init__(self, ledger: Ledger, provider: str, *, refresh_seconds: float = 60.0) -> None:
        self._ledger = ledger
        self._provider = provider
        self._refresh_seconds = refresh_seconds
        self._times: Mapping[WorkKind, LatencyQuantiles] = {}
        self._stale_at = 0.0
        self._lock = asyncio.Lock()

    async def get(self, shot: Shot) -> LatencyQuantiles | None:
        """Return the latency of shots of this kind; None while too few were made."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now >= self._stale_at:
                await self._read()
                self._stale_at = now + self._refresh_seconds
        return self._times.get(WorkKind(shot.model, shot.duration, shot.resolution))

    async def _read(self) -> None:
        try:
            self._times = await self._ledger.jobs.latency(self._provider)
        except LedgerError as error:
            # A worse estimate costs a few polls; it is no reason to fail a step.
            logger.warning("past latencies of %s could not be read: %s", self._provider, error)
