"""Reading the states of many generations with one list request, where that is the cheaper way."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from datetime import datetime, timedelta
from typing import Final

from prefect_video.generations import Generation, Status
from prefect_video.providers.base import Provider
from prefect_video.waiting.watch import Watch

logger = logging.getLogger(__name__)

_PAGE: Final = 100
"""Generations in an answer, about: what providers give at the most."""
_CLOCK_MARGIN: Final = timedelta(minutes=2)
"""How far the provider's clock may be behind ours."""
_PAUSE_SECONDS: Final = 30.0
_PAUSE_LIMIT_SECONDS: Final = 3600.0


class Listing:
    """Decides between one list request and many single ones, and learns whether lists are any good here.

    Args:
        provider: Whose generations are listed.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._failed = 0
        self._paused_until = 0.0
        self._prices_told = True

    def pages(self, wanted: Collection[Watch], others: Collection[Watch], now: float) -> int:
        """How many answers of a list are worth reading; 0 when single requests are cheaper.

        A generation that has ended needs a request of its own in any case; a list saves those that would be spent on
        the ones that have not.

        Args:
            wanted: What is to be looked at.
            others: All that is waited for: newer ones fill the first answers.
            now: The loop's time.
        """
        if not wanted or not self._provider.capabilities.can_list or now < self._paused_until:
            return 0
        oldest = min(watch.began for watch in wanted)
        needed = 1 + sum(watch.began > oldest for watch in others) // _PAGE
        saved = sum(watch.chance_unfinished(now) for watch in wanted)
        return needed if saved > needed else 0

    async def read(self, wanted: Collection[str], *, created_after: datetime, pages: int) -> AsyncIterator[Generation]:
        """What the provider lists, newest first, until all that is wanted was seen or the answers are used up."""
        missing = set(wanted)
        read = 0
        listed = self._provider.list(created_after=created_after - _CLOCK_MARGIN)
        try:
            async for generation in listed:
                yield generation
                read += 1
                missing.discard(generation.id)
                if not missing or read >= (pages + 1) * _PAGE:
                    break
        finally:
            if isinstance(listed, AsyncGenerator):
                await listed.aclose()

    def is_whole(self, generation: Generation) -> bool:
        """Whether a listed generation tells all that is to be known of its end."""
        match generation.status:
            case Status.COMPLETED:
                return generation.result is not None and (generation.cost_usd is not None or not self._prices_told)
            case Status.FAILED:
                return generation.fault is not None
            case _:
                return True

    def note_single(self, generation: Generation) -> None:
        """Notes what a request for one generation tells: where even that has no price, a list need have none."""
        if generation.status is Status.COMPLETED:
            self._prices_told = generation.cost_usd is not None

    def note_well(self) -> None:
        """Notes that a list was of use."""
        self._failed = 0

    def note_useless(self, reason: object, now: float) -> None:
        """Notes that a list was of no use: for a while, ever longer, none is asked for."""
        pause = min(_PAUSE_SECONDS * 2**self._failed, _PAUSE_LIMIT_SECONDS)
        self._failed += 1
        self._paused_until = now + pause
        logger.info("%s: lists are of no use for now (%s); looking one by one", self._provider.name, reason)
