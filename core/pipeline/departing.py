"""Leaving early: a run that does not wait sees its shots to the provider and goes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prefect_video.unbroken import to_its_end

Result = TypeVar("Result")


class Departure:
    """The moment from which a run may leave: all of its shots are at the provider, or have ended.

    Until then it waits like any other run: shots beyond the account's slots, and those that depend on others, can
    only be sent when earlier ones have ended.
    """

    def __init__(self) -> None:
        self._unsent: set[Passage] = set()
        self._all_sent = asyncio.Event()

    def passage(self) -> Passage:
        """A shot's place; take all of them before any is `sent`."""
        passage = Passage(self)
        self._unsent.add(passage)
        return passage

    def _sent(self, passage: Passage) -> None:
        self._unsent.discard(passage)
        if not self._unsent:
            self._all_sent.set()


@dataclass(eq=False)
class Passage:
    """One shot's part in a departure."""

    departure: Departure = field(repr=False)

    def sent(self) -> None:
        """Says that the shot is at the provider, or has ended; once is enough."""
        self.departure._sent(self)

    async def unless_all_sent(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """The result of some work, or None when the run leaves first; the work is then cancelled."""
        working = asyncio.create_task(work)
        leaving = asyncio.create_task(self.departure._all_sent.wait())
        try:
            await asyncio.wait((leaving, working), return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            leaving.cancel()
            working.cancel()
            await to_its_end(asyncio.gather(leaving, working, return_exceptions=True))
