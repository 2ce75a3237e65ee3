"""Detach barrier: lets a run leave its generations at the provider as soon as all of them are submitted."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prefect_video._shield import shielded

Result = TypeVar("Result")


class DetachBarrier:
    """A barrier that a run may leave at: all of its shots are at the provider, or have ended.

    Until then the run waits like any other: shots beyond the account's slots, and those that depend on other shots,
    can only be sent when earlier ones have ended.
    """

    def __init__(self) -> None:
        self._unsent: set[DetachToken] = set()
        self._all_submitted = asyncio.Event()

    def register(self) -> DetachToken:
        """Register a shot; register all of them before any is marked as submitted."""
        token = DetachToken(self)
        self._unsent.add(token)
        return token

    def _mark_submitted(self, token: DetachToken) -> None:
        self._unsent.discard(token)
        if not self._unsent:
            self._all_submitted.set()


@dataclass(eq=False)
class DetachToken:
    """Token of one shot at a detach barrier."""

    barrier: DetachBarrier = field(repr=False)

    def mark_submitted(self) -> None:
        """Mark the shot as being at the provider, or as ended; repeating it does nothing."""
        self.barrier._mark_submitted(self)

    async def run_until_all_submitted(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """Return the result of a coroutine, or None when the run leaves first; the coroutine is then cancelled."""
        working = asyncio.create_task(work)
        leaving = asyncio.create_task(self.barrier._all_submitted.wait())
        try:
            await asyncio.wait((leaving, working), return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            # Both have really ended before the shot goes on: no poll outlives the run that leaves.
            leaving.cancel()
            working.cancel()
            await shielded(asyncio.gather(leaving, working, return_exceptions=True))
