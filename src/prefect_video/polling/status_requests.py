"""The status requests themselves, and what their answers and failures mean for the next look."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from prefect_video.errors import (
    NotFound,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    UnreadableAnswer,
)
from prefect_video.generations import Generation, Status
from prefect_video.providers.base import Provider
from prefect_video.waiting.agenda import Agenda
from prefect_video.waiting.listing import Listing
from prefect_video.waiting.schedule import PollSchedule
from prefect_video.waiting.watch import Watch

logger = logging.getLogger(__name__)

_TROUBLE: Final = (ProviderUnavailable, RateLimited)
"""What concerns the whole account, not one generation."""


class Inquiry:
    """Asks a provider about generations and puts those that have not ended back on the agenda.

    Args:
        provider: Who is asked.
        agenda: Where the next look is written down.
        watches: All that is waited for, by generation id: a list tells of those too that were not due.
        schedule: How densely to look.
        lost_after: How many answers in a row must say that a known id does not exist.

    Attributes:
        listing: Whether and how lists are used.
        troubles: Requests in a row that the provider did not answer.
        held_until: The loop's time before which nothing should be asked.
    """

    def __init__(
        self,
        provider: Provider,
        agenda: Agenda,
        watches: Mapping[str, Watch],
        *,
        schedule: PollSchedule,
        lost_after: int,
    ) -> None:
        self.listing = Listing(provider)
        self.troubles = 0
        self.held_until = 0.0
        self._provider = provider
        self._agenda = agenda
        self._watches = watches
        self._schedule = schedule
        self._lost_after = lost_after

    async def ask(self, watch: Watch) -> None:
        """Looks at one generation."""
        try:
            generation = await self._provider.retrieve(watch.generation_id)
        except NotFound:
            self._denied(watch)
        except ProviderError as error:
            if not goes_on(error):
                watch.fail(error)
                return
            logger.warning("%s generation %s: poll failed, going on: %s", error.provider, watch.generation_id, error)
            self._unanswered([watch], error)
        except Exception as error:  # noqa: BLE001  handed to the waiters, who would wait for ever otherwise
            watch.fail(error)
        else:
            self.troubles = 0
            self.listing.note_single(generation)
            self._heard(watch, generation)

    async def ask_for_all(self, wanted: Collection[Watch], *, pages: int) -> None:
        """Looks at several generations, and at whatever else the list happens to tell of."""
        missing = {watch.generation_id: watch for watch in wanted}
        oldest = max(_now() - watch.began for watch in wanted)
        try:
            async for generation in self.listing.read(
                frozenset(missing), created_after=datetime.now(UTC) - timedelta(seconds=oldest), pages=pages
            ):
                self.troubles = 0
                watch = missing.pop(generation.id, None) or self._watches.get(generation.id)
                if watch is not None:
                    self._listed(watch, generation)
        except ProviderError as error:
            self.listing.note_useless(error, _now())
            if isinstance(error, _TROUBLE):
                self._unanswered(list(missing.values()), error)
                return
        except Exception as error:
            logger.exception("%s: the list could not be read", self._provider.name)
            self.listing.note_useless(error, _now())
        else:
            # Few are missing for good reasons: a new one that the list does not show yet, one behind its last page.
            if len(missing) > len(wanted) / 2:
                self.listing.note_useless(f"{len(missing)} of {len(wanted)} generations are not in it", _now())
            else:
                self.listing.note_well()
        for watch in missing.values():
            self._agenda.put(watch, 0.0, alone=True)

    def _listed(self, watch: Watch, generation: Generation) -> None:
        if generation.status.ended and not self.listing.is_whole(generation):
            if not (watch.looking and watch.alone):
                self._agenda.put(watch, 0.0, alone=True)
        else:
            self._heard(watch, generation)

    def _heard(self, watch: Watch, generation: Generation) -> None:
        watch.hear(generation, _now())
        if not generation.status.ended:
            self._agenda.plan(watch, asked=generation.retry_after)

    def _denied(self, watch: Watch) -> None:
        watch.denied += 1
        if watch.denied >= self._lost_after:
            watch.hear(lost(self._provider, watch.generation_id), _now())
        else:
            self._agenda.put(watch, denied_seconds(self._schedule, watch.denied), alone=True)

    def _unanswered(self, watches: Collection[Watch], error: ProviderError) -> None:
        asked = error.retry_after or 0.0
        if isinstance(error, _TROUBLE):
            self.troubles += 1
            self.held_until = _now() + max(asked, self._backoff(self.troubles))
        for watch in watches:
            watch.failed += 1
            self._agenda.plan(watch, at_least=max(asked, self._backoff(watch.failed)))

    def _backoff(self, times: int) -> float:
        return float(min(self._schedule.shortest_seconds * 2.0 ** min(times, 30), self._schedule.longest_seconds))


def may_pass(error: ProviderError) -> bool:
    """Whether the same question may be answered the next time: a gateway's HTML page is no verdict either."""
    return error.retryable or isinstance(error, UnreadableAnswer)


def goes_on(error: ProviderError) -> bool:
    """Whether waiting goes on after it: a quota that is used up is no reason to drop what was paid before."""
    return may_pass(error) or isinstance(error, QuotaExhausted)


def denied_seconds(schedule: PollSchedule, denied: int) -> float:
    """How long to wait after a 404: a replica that has not heard of it yet gives one too, so ever longer."""
    return float(schedule.shortest_seconds * 4.0**denied)


def lost(provider: Provider, generation_id: str) -> Generation:
    """A generation that the provider no longer knows."""
    return Generation(id=generation_id, provider=provider.name, status=Status.LOST)


def _now() -> float:
    return asyncio.get_running_loop().time()
