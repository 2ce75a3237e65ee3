"""The status requests themselves, and what their answers and failures mean for the next look."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from prefect_video.errors import (
    InvalidResponse,
    NotFound,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
)
from prefect_video.generations import Generation, Status
from prefect_video.polling.poll_queue import PollQueue, PollTarget
from prefect_video.polling.schedule import PollSchedule
from prefect_video.providers import Provider

logger = logging.getLogger(__name__)

_PAGE: Final = 100
"""Generations in an answer, about: what providers give at the most."""
_CLOCK_MARGIN: Final = timedelta(minutes=2)
"""How far the provider's clock may be behind ours."""
_PAUSE_SECONDS: Final = 30.0
_PAUSE_LIMIT_SECONDS: Final = 3600.0


class ListStrategy:
    """Decides between one list request and many single ones, and learns whether lists are any good here.

    Args:
        provider: Whose generations are listed.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._failed = 0
        self._paused_until = 0.0
        self._prices_told = True

    def pages_worth_reading(self, wanted: Collection[PollTarget], others: Collection[PollTarget], now: float) -> int:
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

    def is_complete(self, generation: Generation) -> bool:
        """Whether a listed generation tells all that is to be known of its end."""
        match generation.status:
            case Status.COMPLETED:
                return generation.result is not None and (generation.cost_usd is not None or not self._prices_told)
            case Status.FAILED:
                return generation.fault is not None
            case _:
                return True

    def record_single(self, generation: Generation) -> None:
        """Notes what a request for one generation tells: where even that has no price, a list need have none."""
        if generation.status is Status.COMPLETED:
            self._prices_told = generation.cost_usd is not None

    def record_success(self) -> None:
        """Notes that a list was of use."""
        self._failed = 0

    def record_failure(self, reason: object, now: float) -> None:
        """Notes that a list was of no use: for a while, ever longer, none is asked for."""
        pause = min(_PAUSE_SECONDS * 2**self._failed, _PAUSE_LIMIT_SECONDS)
        self._failed += 1
        self._paused_until = now + pause
        logger.info("%s: lists are of no use for now (%s); looking one by one", self._provider.name, reason)


_FAILURES: Final = (ProviderUnavailable, RateLimited)
"""What concerns the whole account, not one generation."""


class StatusRequests:
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
        agenda: PollQueue,
        watches: Mapping[str, PollTarget],
        *,
        schedule: PollSchedule,
        lost_after: int,
    ) -> None:
        self.listing = ListStrategy(provider)
        self.troubles = 0
        self.held_until = 0.0
        self._provider = provider
        self._agenda = agenda
        self._watches = watches
        self._schedule = schedule
        self._lost_after = lost_after

    async def fetch(self, watch: PollTarget) -> None:
        """Looks at one generation."""
        try:
            generation = await self._provider.retrieve(watch.generation_id)
        except NotFound:
            self._on_not_found(watch)
        except ProviderError as error:
            if not should_keep_polling(error):
                watch.fail(error)
                return
            logger.warning("%s generation %s: poll failed, going on: %s", error.provider, watch.generation_id, error)
            self._on_error([watch], error)
        except Exception as error:  # noqa: BLE001  handed to the waiters, who would wait for ever otherwise
            watch.fail(error)
        else:
            self.troubles = 0
            self.listing.record_single(generation)
            self._on_answer(watch, generation)

    async def fetch_list(self, wanted: Collection[PollTarget], *, pages: int) -> None:
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
                    self._on_listed(watch, generation)
        except ProviderError as error:
            self.listing.record_failure(error, _now())
            if isinstance(error, _FAILURES):
                self._on_error(list(missing.values()), error)
                return
        except Exception as error:
            logger.exception("%s: the list could not be read", self._provider.name)
            self.listing.record_failure(error, _now())
        else:
            # Few are missing for good reasons: a new one that the list does not show yet, one behind its last page.
            if len(missing) > len(wanted) / 2:
                self.listing.record_failure(f"{len(missing)} of {len(wanted)} generations are not in it", _now())
            else:
                self.listing.record_success()
        for watch in missing.values():
            self._agenda.push(watch, 0.0, alone=True)

    def _on_listed(self, watch: PollTarget, generation: Generation) -> None:
        if generation.status.ended and not self.listing.is_complete(generation):
            if not (watch.request_in_flight and watch.needs_own_request):
                self._agenda.push(watch, 0.0, alone=True)
        else:
            self._on_answer(watch, generation)

    def _on_answer(self, watch: PollTarget, generation: Generation) -> None:
        watch.update(generation, _now())
        if not generation.status.ended:
            self._agenda.schedule(watch, asked=generation.retry_after)

    def _on_not_found(self, watch: PollTarget) -> None:
        watch.not_found_count += 1
        if watch.not_found_count >= self._lost_after:
            watch.update(lost_generation(self._provider, watch.generation_id), _now())
        else:
            self._agenda.push(watch, denied_seconds(self._schedule, watch.not_found_count), alone=True)

    def _on_error(self, watches: Collection[PollTarget], error: ProviderError) -> None:
        asked = error.retry_after or 0.0
        if isinstance(error, _FAILURES):
            self.troubles += 1
            self.held_until = _now() + max(asked, self._backoff(self.troubles))
        for watch in watches:
            watch.error_count += 1
            self._agenda.schedule(watch, at_least=max(asked, self._backoff(watch.error_count)))

    def _backoff(self, times: int) -> float:
        return float(min(self._schedule.shortest_seconds * 2.0 ** min(times, 30), self._schedule.longest_seconds))


def is_transient(error: ProviderError) -> bool:
    """Whether the same question may be answered the next time: a gateway's HTML page is no verdict either."""
    return error.retryable or isinstance(error, InvalidResponse)


def should_keep_polling(error: ProviderError) -> bool:
    """Whether waiting goes on after it: a quota that is used up is no reason to drop what was paid before."""
    return is_transient(error) or isinstance(error, QuotaExhausted)


def denied_seconds(schedule: PollSchedule, denied: int) -> float:
    """How long to wait after a 404: a replica that has not heard of it yet gives one too, so ever longer."""
    return float(schedule.shortest_seconds * 4.0**denied)


def lost_generation(provider: Provider, generation_id: str) -> Generation:
    """A generation that the provider no longer knows."""
    return Generation(id=generation_id, provider=provider.name, status=Status.LOST)


def _now() -> float:
    return asyncio.get_running_loop().time()
