"""Readiness: whether the ledger and the stores can be used now, looked at seldom however often it is asked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import Final

from prefect_video.errors import VideoError
from prefect_video.pipeline.steps import check_store
from prefect_video.service.sessions import Sessions

logger = logging.getLogger(__name__)

_KEPT_SECONDS: Final = 2.0
_TIMEOUT_SECONDS: Final = 10.0


class Readiness:
    """Readiness of a service.

    Args:
        sessions: The open sessions, one per account.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._lock = asyncio.Lock()
        self._checked_at: float | None = None
        self._parts: dict[str, str] = {}

    async def check(self) -> dict[str, str]:
        """Return the state of each part: `ok`, or what is wrong with it in a word; the log says more."""
        async with self._lock:
            if self._checked_at is None or time.monotonic() - self._checked_at > _KEPT_SECONDS:
                self._parts = await self._look()
                self._checked_at = time.monotonic()
            return self._parts

    async def _look(self) -> dict[str, str]:
        sessions = self._sessions.sessions
        stores = {session.store_name: session.store for session in sessions}
        ledger = sessions[0].ledger
        results = await asyncio.gather(
            _is_usable("the ledger", ledger.check()),
            *(_is_usable(f"the store {name}", check_store(ledger, store, name)) for name, store in stores.items()),
        )
        # Without the stores' names: no token is needed to ask.
        return {"ledger": _word(results[0]), "store": _word(all(results[1:]))}


def _word(usable: bool) -> str:
    return "ok" if usable else "cannot be used"


async def _is_usable(name: str, work: Awaitable[object]) -> bool:
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await work
    except (VideoError, TimeoutError) as error:
        logger.error("not ready: %s: %s", name, error or "no answer in time")
        return False
    return True
