"""Status requests: one generation or a list at a time, and what the answer means for the next poll."""

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
from prefect_video.polling.request_budget import RequestBudget
from prefect_video.polling.schedule import PollSchedule
from prefect_video.providers import Provider

logger = logging.getLogger(__name__)

_PAGE: Final = 100
"""Generations on a page of a list: about the most that providers return."""
_CLOCK_MARGIN: Final = timedelta(minutes=2)
"""How far the provider's clock may be behind this machine's."""
_PAUSE_SECONDS: Final = 30.0
_PAUSE_LIMIT_SECONDS: Final = 3600.0


class ListStrategy:
    """The choice between one list request and many single ones, which adapts to how useful lists have been.

    Args:
        provider: The provider that lists its generations.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._failed = 0
        self._paused_until = 0.0
        self._prices_reported = True

    def sharing(self, targets: int) -> float:
        """Return the number of generations that one request is about, of so many that are in progress."""
        if targets < 2 or not self._is_usable(asyncio.get_running_loop().time()):
            return 1.0
        # Of a list of many pages each page costs, and so does reading it: a crowd is polled less often.
        return min(targets, _PAGE) / (1 + (targets - 1) // _PAGE)

    def _is_usable(self, now: float) -> bool:
        return self._provider.capabilities.can_list and now >= self._paused_until

    def pages_worth_reading(self, wanted: Collection[PollTarget], known: Collection[PollTarget], now: float) -> int:
        """Return how many pages of a list are worth reading; 0 where single requests are cheaper.

        Where a list leaves out prices, a generation that has ended needs a request of its own in any case; a list then
        saves those that would be spent on the ones that have not.

        Args:
            wanted: The targets to poll.
            known: All targets: newer ones fill the first pages.
            now: The loop's time.
        """
        if not wanted or not self._is_usable(now):
            return 0
        oldest = min(target.began for target in wanted)
        needed = 1 + sum(target.began > oldest for target in known) // _PAGE
        saved = sum(target.chance_unfinished(now) for target in wanted) if self._prices_reported else len(wanted)
        return needed if saved > needed else 0

    async def read(
        self, wanted: Collection[str], *, others: Collection[str], created_after: datetime, pages: int
    ) -> AsyncIterator[Generation]:
        """Yield what the provider lists, newest first, until all that is wanted was seen or the pages are read.

        Args:
            wanted: Ids of the generations that the list is read for.
            others: Ids of those that are worth the rest of a page.
            created_after: Time before which none of them was created.
            pages: Number of pages that should be enough.
        """
        missing, others_missing = set(wanted), set(others)
        read = 0
        listed = self._provider.list(created_after=created_after - _CLOCK_MARGIN)
        try:
            async for generation in listed:
                yield generation
                read += 1
                missing.discard(generation.id)
                others_missing.discard(generation.id)
                is_enough = not missing and (not others_missing or read % _PAGE == 0)
                if is_enough or read >= (pages + 1) * _PAGE:
                    break
        finally:
            if isinstance(listed, AsyncGenerator):
                await listed.aclose()

    def is_complete(self, generation: Generation) -> bool:
        """Return whether a listed generation says all about its end that a request of its own would."""
        match generation.status:
            case Status.COMPLETED:
                return generation.result is not None and (generation.cost_usd is not None or not self._prices_reported)
            case Status.FAILED:
                return generation.fault is not None
            case _:
                return True

    def record_single(self, generation: Generation) -> None:
        """Record what a single request shows: where even that has no price, a list need have none."""
        if generation.status is Status.COMPLETED:
            self._prices_reported = generation.cost_usd is not None

    def record_success(self) -> None:
        """Record that a list was useful."""
        self._failed = 0

    def record_failure(self, reason: object, now: float) -> None:
        """Record that a list was of no use, and request none for a while that doubles each time."""
        pause = min(_PAUSE_SECONDS * 2**self._failed, _PAUSE_LIMIT_SECONDS)
        self._failed += 1
        self._paused_until = now + pause
        logger.info("%s: its list is of no use for now (%s); polling one by one", self._provider.name, reason)


_FAILURES: Final = (ProviderUnavailable, RateLimited)
"""Errors that concern the whole account, not one generation."""


class StatusRequests:
    """The requests of a poller: they update the targets and queue those that have not ended again.

    Args:
        provider: The provider to request from.
        queue: The queue of the targets.
        targets: All targets, by generation id: a list shows some that were not due.
        schedule: The delays between polls.
        lost_after: Number of answers in a row that must say that a known id does not exist.
        budget: The requests that may look for ends.

    Attributes:
        listing: The choice between lists and single requests.
        failures: Requests in a row that the provider did not answer.
        not_before: The loop's time before which nothing should be requested.
        is_listing: A list is being read.
    """

    def __init__(
        self,
        provider: Provider,
        queue: PollQueue,
        targets: Mapping[str, PollTarget],
        *,
        schedule: PollSchedule,
        lost_after: int,
        listing: ListStrategy,
        budget: RequestBudget,
    ) -> None:
        self.listing = listing
        self._budget = budget
        self.failures = 0
        self.not_before = 0.0
        self.is_listing = False
        self._provider = provider
        self._queue = queue
        self._targets = targets
        self._schedule = schedule
        self._lost_after = lost_after

    async def fetch(self, target: PollTarget) -> None:
        """Request one generation and update its target."""
        try:
            generation = await self._provider.retrieve(target.generation_id)
        except NotFound:
            self._on_not_found(target)
        except ProviderError as error:
            if not should_keep_polling(error):
                target.fail(error)
                return
            logger.warning(
                "%s generation %s: poll failed, polling again later: %s", error.provider, target.generation_id, error
            )
            self._on_error([target], error)
        except Exception as error:  # noqa: BLE001  handed to the waiters, which would wait indefinitely otherwise
            target.fail(error)
        else:
            self.failures = 0
            self.listing.record_single(generation)
            if generation.status.ended and not target.needs_own_request:
                self._budget.refund()
            self._on_answer(target, generation)

    async def fetch_list(self, wanted: Collection[PollTarget], *, pages: int) -> None:
        """Read the list for several targets, and update all others that it happens to show."""
        try:
            await self._read_list(wanted, pages=pages)
        finally:
            self.is_listing = False
            self._queue.changed.set()

    async def _read_list(self, wanted: Collection[PollTarget], *, pages: int) -> None:
        missing = {target.generation_id: target for target in wanted}
        oldest = max(_now() - target.began for target in wanted)
        try:
            async for generation in self.listing.read(
                frozenset(missing),
                others={target.generation_id for target in self._targets.values() if _now() - target.began <= oldest},
                created_after=datetime.now(UTC) - timedelta(seconds=oldest),
                pages=pages,
            ):
                self.failures = 0
                target = missing.pop(generation.id, None) or self._targets.get(generation.id)
                if target is not None:
                    self._on_listed(target, generation)
        except ProviderError as error:
            self.listing.record_failure(error, _now())
            if isinstance(error, _FAILURES):
                self._on_error(list(missing.values()), error)
                return
        except Exception as error:
            logger.exception("%s: the list could not be read", self._provider.name)
            self.listing.record_failure(error, _now())
        else:
            # A few may be missing for good reasons: one that is new to the list, one behind its last page.
            if len(missing) > len(wanted) / 2:
                self.listing.record_failure(f"{len(missing)} of {len(wanted)} generations are not in it", _now())
            else:
                self.listing.record_success()
        for target in missing.values():
            self._queue.push(target, 0.0, alone=True)

    def _on_listed(self, target: PollTarget, generation: Generation) -> None:
        if generation.status.ended and not self.listing.is_complete(generation):
            if not (target.request_in_flight and target.needs_own_request):
                target.ended_at = target.ended_at or _now()
                self._queue.push(target, 0.0, alone=True)
        else:
            self._on_answer(target, generation)

    def _on_answer(self, target: PollTarget, generation: Generation) -> None:
        target.update(generation, _now())
        if not generation.status.ended:
            self._queue.schedule(target, retry_after=generation.retry_after)

    def _on_not_found(self, target: PollTarget) -> None:
        target.not_found_count += 1
        if target.not_found_count >= self._lost_after:
            target.update(lost_generation(self._provider, target.generation_id), _now())
        else:
            self._queue.push(target, not_found_delay(self._schedule, target.not_found_count), alone=True)

    def _on_error(self, targets: Collection[PollTarget], error: ProviderError) -> None:
        retry_after = error.retry_after or 0.0
        if isinstance(error, _FAILURES):
            self.failures += 1
            self.not_before = _now() + max(retry_after, self._backoff(self.failures))
        for target in targets:
            target.error_count += 1
            self._queue.schedule(target, at_least=max(retry_after, self._backoff(target.error_count)))

    def _backoff(self, times: int) -> float:
        return float(min(self._schedule.shortest_seconds * 2.0 ** min(times, 30), self._schedule.longest_seconds))


def is_transient(error: ProviderError) -> bool:
    """Return whether the same request may succeed the next time: a gateway's HTML page is no verdict either."""
    return error.retryable or isinstance(error, InvalidResponse)


def should_keep_polling(error: ProviderError) -> bool:
    """Return whether polling goes on after an error: a used-up quota is no reason to drop what was paid before."""
    return is_transient(error) or isinstance(error, QuotaExhausted)


def not_found_delay(schedule: PollSchedule, not_found_count: int) -> float:
    """Return the seconds to wait after 404s in a row: a replica that lags behind gives one too, so ever longer."""
    return float(schedule.shortest_seconds * 4.0**not_found_count)


def lost_generation(provider: Provider, generation_id: str) -> Generation:
    """Build the generation that stands for one which the provider no longer knows."""
    return Generation(id=generation_id, provider=provider.name, status=Status.LOST)


def _now() -> float:
    return asyncio.get_running_loop().time()
