"""What a ledger has learned of a provider's speed, kept at hand for everyone who waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from prefect_video.errors import LedgerError
from prefect_video.ledger import LatencyQuantiles, Ledger, WorkKind
from prefect_video.shots import Shot

logger = logging.getLogger(__name__)


class LatencyCache:
    """How long a provider's generations have taken; one query now and then, however many ask.

    Args:
        ledger: Where the past is.
        provider: The provider's name.
        refresh_seconds: How old the answer may be.
    """

    def __init__(self, ledger: Ledger, provider: str, *, refresh_seconds: float = 60.0) -> None:
        self._ledger = ledger
        self._provider = provider
        self._refresh_seconds = refresh_seconds
        self._times: Mapping[WorkKind, LatencyQuantiles] = {}
        self._stale_at = 0.0
        self._reading = asyncio.Lock()

    async def get(self, shot: Shot) -> LatencyQuantiles | None:
        """How long shots of this kind have taken; None while too few were made."""
        async with self._reading:
            now = asyncio.get_running_loop().time()
            if now >= self._stale_at:
                await self._read()
                self._stale_at = now + self._refresh_seconds
        return self._times.get(WorkKind(shot.model, shot.duration, shot.resolution))

    async def _read(self) -> None:
        try:
            self._times = await self._ledger.jobs.latency(self._provider)
        except LedgerError as error:
            # A guess that is a little worse costs a few looks; it is no reason to fail a step.
            logger.warning("past times of %s could not be read: %s", self._provider, error)
