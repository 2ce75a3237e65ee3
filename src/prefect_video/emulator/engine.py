"""Engine behind every dialect: admission, the generations, and the scheduler that advances them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

from prefect_video.emulator.api_keys import ApiKeys
from prefect_video.emulator.dialects.echo import echo_prompt
from prefect_video.emulator.errors import ApiError
from prefect_video.emulator.faults import FaultRules
from prefect_video.emulator.generation import (
    EmulatedGeneration,
    EmulatedStatus,
    Failure,
    GenerationIndex,
    GenerationRequest,
    cost_usd,
)
from prefect_video.emulator.rendering import Clip, ClipLibrary, ImageFolder
from prefect_video.emulator.scheduler import Scheduler
from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.emulator.state_store import StateStore, StateStoreError
from prefect_video.emulator.timing import QUEUED_SHARE, WorkDistribution
from prefect_video.emulator.usage import UsageCounters

logger = logging.getLogger("prefect_video.emulator")

FAILING_PROMPT = "[fail]"
"""Marker in a prompt that makes its generation fail."""

CANCELLABLE_SHARE = 0.5
"""Share of the work up to which a generation can be cancelled, by the reference contract."""

Listener = Callable[[EmulatedGeneration, EmulatedStatus], None]


class Engine:
    """State machine of one emulated provider. Every method runs on the emulator's event loop.

    Changes are made in memory at once and become durable with `commit`, which every answer awaits before it leaves.

    Attributes:
        settings: Settings in force.
        api_keys: Accepted API keys.
        usage: Usage counters.
        faults: Fault rules in force.
        closing: Set when the emulator is shutting down.
        idle: Set while no generation is in progress.
        listeners: Called with a generation and its new status at every change.
    """

    def __init__(self, settings: EmulatorSettings, state_store: StateStore, clips: ClipLibrary) -> None:
        self.settings = settings
        self.api_keys = ApiKeys(settings)
        self.usage = UsageCounters()
        self.faults = FaultRules(settings.faults)
        self.closing = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.listeners: list[Listener] = []
        self._state_store = state_store
        self._clips = clips
        self._times = WorkDistribution.parse(settings.times)
        self._index = GenerationIndex()
        self._accepted = 0
        self._changed: dict[str, EmulatedGeneration] = {}
        self._scheduler = Scheduler(self._advance)
        self._renders: set[asyncio.Task[None]] = set()
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Advance generations as their time comes, until cancelled."""
        async for _ in self._scheduler:
            try:
                await self.commit()
            except StateStoreError as error:
                logger.error("%s; the changes are written with the next commit", error)

    async def load(self) -> None:
        """Load the stored state; generations in progress continue as if the process had never stopped."""
        generations, counters = await self._state_store.load()
        self.usage = UsageCounters(counters)
        self._accepted = len(generations)
        for generation in generations:
            self._index.add(generation)
        # Work time passed while the process was down: overdue steps are taken as soon as the scheduler runs.
        for generation in self._index.all_unfinished():
            self.idle.clear()
            self._resume(generation)

    async def commit(self) -> None:
        """Return when every change made so far is durable; concurrent callers share one transaction.

        Raises:
            StateStoreError: The changes could not be written; they stay pending.
        """
        # One writer at a time: who finds nothing left to write returns only once the writer before is done.
        async with self._writing:
            if not self._changed and not self.usage.changed:
                return
            generations, self._changed = self._changed, {}
            counters, self.usage.changed = self.usage.changed, set()
            try:
                values = [(counter, self.usage.value(counter)) for counter in counters]
                await self._state_store.write(generations.values(), values)
            except BaseException:
                # Also after a cancellation, when it is not known what was written: writing it twice does no harm.
                self._changed = generations | self._changed
                self.usage.changed |= counters
                raise

    async def reset(self) -> None:
        """Delete every generation, counter and fault."""
        self._stop_work()
        self._index.clear()
        self._accepted = 0
        self.idle.set()
        self.faults.clear()
        async with self._writing:
            self._changed.clear()
            self.usage.clear()
            await self._state_store.clear()

    async def restart(self) -> None:
        """Delete every generation, as an engine without a disk does on restart; the usage continues.

        Counted ids start from 1 again.
        """
        self._stop_work()
        self._index.clear()
        self._accepted = 0
        self.idle.set()
        async with self._writing:
            self._changed.clear()
            await self._state_store.forget_generations()

    def echo_prompt(self, generation: EmulatedGeneration) -> str | None:
        """Return the prompt of a generation as this provider reports it; None if it reports none."""
        return echo_prompt(generation.request.prompt, self.settings.echo_prompt)

    def to_server_time(self, seconds: float) -> float:
        """Return a Unix time by the provider's own clock, which may be ahead of ours."""
        return seconds + self.settings.clock_offset_seconds

    def change_settings(self, **changes: Any) -> None:
        """Replace settings that decide how prompts, metadata, times and ids are reported.

        Raises:
            ValueError: A setting is not valid.
        """
        self.settings = EmulatorSettings.model_validate({**self.settings.model_dump(), **changes})

    async def close(self) -> None:
        """Stop all work and commit the last changes."""
        self.closing.set()
        renders = list(self._renders)  # a copy: each task removes itself from the set when it ends
        self._stop_work()
        await asyncio.gather(*renders, return_exceptions=True)
        await self.commit()

    def submit(
        self,
        account: str,
        dialect: str,
        request: GenerationRequest,
        *,
        fail_at_once: bool = False,
        queueing: bool = False,
        moderated_later: bool = False,
        id_prefix: str = "gen_",
        billed_failure: Failure | None = None,
    ) -> EmulatedGeneration:
        """Accept a request and start its generation.

        Args:
            account: Account that submits it.
            dialect: Name of the dialect in which its webhooks are sent.
            request: Requested video.
            fail_at_once: True to fail it right after it was accepted.
            queueing: True to accept everything, as job queues do: policy and a full account only show later.
            moderated_later: True to accept a prompt against policy, and fail its generation.
            id_prefix: Beginning of its id.
            billed_failure: Failure at the end of its work, billed all the same; None to let it complete.

        Raises:
            ApiError: The prompt violates policy, or the account's quota or capacity is exhausted.
        """
        if not (queueing or moderated_later) and self._breaks_policy(request):
            raise ApiError("policy", "Prompt violates content policy")
        self._check_quota(account)
        if not queueing:
            self._check_capacity(account)
        generation = self._new_generation(account, dialect, request, id_prefix, billed_failure)
        self._start(generation)
        if fail_at_once:
            self._fail(generation, Failure(code="internal_failure", message="Internal generation failure"))
        return generation

    def retrieve(self, account: str, generation_id: str) -> EmulatedGeneration:
        """Return a generation of this account.

        Raises:
            ApiError: The account has no generation of this id.
        """
        generation = self._index.get(generation_id)
        if generation is None or generation.account != account or generation.deleted:
            raise ApiError("not_found", f"No generation with id {generation_id!r} exists under this key")
        return generation

    @property
    def images(self) -> ImageFolder:
        """Return the images that requests have brought."""
        return self._clips.images

    def find(self, generation_id: str) -> EmulatedGeneration | None:
        """Return a generation of any account, as the download host serves them; None if there is none."""
        generation = self._index.get(generation_id)
        return None if generation is None or generation.deleted else generation

    def list_generations(self, account: str) -> list[EmulatedGeneration]:
        """Return the account's generations, newest first."""
        return [generation for generation in self._index.newest_first(account) if not generation.deleted]

    def cancel(self, account: str, generation_id: str) -> EmulatedGeneration:
        """Cancel a generation that is queued or at most half done; cancelling twice is no error.

        Raises:
            ApiError: There is none of this id, it has ended, or it is more than half done.
        """
        generation = self.retrieve(account, generation_id)
        if generation.status == "cancelled":
            return generation
        if generation.is_finished:
            raise ApiError(
                "conflict",
                f"Generation {generation_id} is already {generation.status}; it cannot be cancelled",
            )
        if generation.progress(time.time()) > CANCELLABLE_SHARE:
            raise ApiError(
                "conflict",
                f"Generation {generation_id} is more than 50 % done; it can no longer be cancelled",
            )
        self._finish(generation, "cancelled")
        return generation

    def stop(self, generation: EmulatedGeneration) -> None:
        """End a generation as cancelled, however far it is; one that has ended stays as it is."""
        if not generation.is_finished:
            self._finish(generation, "cancelled")

    def change_speed(self, speed: float) -> None:
        """Change the speed, for the remaining work of generations in progress too."""
        now, factor = time.time(), self.settings.speed / speed
        self.settings = self.settings.model_copy(update={"speed": speed})
        for generation in self._index.all_unfinished():
            generation.starts_at = now + (generation.starts_at - now) * factor
            generation.ends_at = now + (generation.ends_at - now) * factor
            self._changed[generation.id] = generation
            self._resume(generation)

    def describe_requests(self) -> list[dict[str, Any]]:
        """Return what each accepted request was for, the oldest first; images are named by their digests."""
        return [
            {
                "id": generation.id,
                "dialect": generation.dialect,
                **generation.request.model_dump(mode="json", exclude={"metadata", "webhook_url"}),
            }
            for generation in self._index.oldest_first()
        ]

    def forget(self, generation: EmulatedGeneration) -> None:
        """Hide a deleted generation; work on it, and its bill, continue."""
        generation.deleted = True
        self._changed[generation.id] = generation

    @property
    def now_concurrency(self) -> int:
        """Return the number of unfinished generations of all accounts."""
        return self._index.count_unfinished()

    async def clip(self, generation: EmulatedGeneration) -> Clip:
        """Return the rendered video of a generation, rendering it first if necessary."""
        return await self.render(generation.request)

    async def render(self, request: GenerationRequest) -> Clip:
        """Return the rendered video of a request, rendering it first if necessary."""
        return await self._clips.get(request)

    def _breaks_policy(self, request: GenerationRequest) -> bool:
        folded = request.prompt.casefold()
        return any(marker.casefold() in folded for marker in self.settings.forbidden)

    def _check_quota(self, account: str) -> None:
        if self.settings.monthly_quota is None:
            return
        now = datetime.now(UTC)
        start, end = month_bounds(now)
        # Newest first and in order of acceptance: the first one of an earlier month ends the count.
        this_month = takewhile(lambda g: g.created >= start.timestamp(), self._index.newest_first(account))
        if sum(1 for _ in this_month) >= self.settings.monthly_quota:
            raise ApiError(
                "quota",
                f"Monthly quota of {self.settings.monthly_quota} generations used up; it renews on {end:%Y-%m-%d}",
                retry_after=math.ceil((end - now).total_seconds()),
            )

    def _check_capacity(self, account: str) -> None:
        occupying, capacity = self._index.unfinished(account), self.settings.capacity
        if len(occupying) < capacity:
            return
        wait = self.settings.retry_after_seconds
        if wait is None:
            wait = max(1, math.ceil(min((g.ends_at for g in occupying), default=0.0) - time.time()))
        raise ApiError("capacity", f"Maximum concurrent generations reached ({capacity})", retry_after=wait)

    def _next_id(self) -> str:
        self._accepted += 1
        if self.settings.ids == "counting":
            return f"{self._accepted:024d}"
        middle = {"reserved": "a:b/c#d%2Fe?f=", "unusable": "\N{DEGREE SIGN}\n"}.get(self.settings.ids, "")
        return f"{middle}{uuid.uuid4().hex[:24]}"

    def _new_generation(
        self, account: str, dialect: str, request: GenerationRequest, id_prefix: str, billed_failure: Failure | None
    ) -> EmulatedGeneration:
        """Build a queued generation, with the times of its steps at the current speed."""
        now = time.time()
        work = self._times.work_seconds(request.seed, request.duration) / self.settings.speed
        return EmulatedGeneration(
            id=f"{id_prefix}{self._next_id()}",
            dialect=dialect,
            account=account,
            request=request,
            created=now,
            starts_at=now + work * QUEUED_SHARE,
            ends_at=now + work,
            will_fail=billed_failure is not None or FAILING_PROMPT in request.prompt or self._breaks_policy(request),
            billed_failure=billed_failure,
        )

    def _start(self, generation: EmulatedGeneration) -> None:
        """Index, count and announce an accepted generation, and schedule its first step."""
        self._index.add(generation)
        self.idle.clear()
        self._changed[generation.id] = generation
        key = self.api_keys.label(generation.account)
        self.usage.count("accepted", prompt=generation.request.prompt, key=key)
        self.usage.record_peak(self.now_concurrency)
        self.usage.record_peak(self._index.count_unfinished(generation.account), key=key)
        self._notify(generation)
        self._scheduler.add(generation.starts_at, generation.id)

    def _resume(self, generation: EmulatedGeneration) -> None:
        """Continue with a generation in progress, after a restart or a change of speed."""
        if generation.status == "queued":
            self._scheduler.add(generation.starts_at, generation.id)
        else:
            self._work_on(generation)

    def _advance(self, generation_id: str) -> None:
        """Advance a generation by the step that is due; skip a step that an earlier one or a new speed made stale."""
        generation = self._index.get(generation_id)
        if generation is None or generation.is_finished or generation.next_step_at > time.time():
            return
        if generation.status == "queued":
            generation.status = "processing"
            self._changed[generation.id] = generation
            self._notify(generation)
            self._work_on(generation)
        elif generation.will_fail:
            # Only a failure that a fault has planned costs money: real providers bill moderated videos, too.
            if generation.billed_failure is not None:
                self._bill(generation)
            self._fail(generation, generation.billed_failure or self._explain_failure(generation.request))
        elif generation.file_size is not None:
            self._complete(generation)

    def _explain_failure(self, request: GenerationRequest) -> Failure:
        if self._breaks_policy(request):
            return Failure(code="content_policy_violation", message="Prompt violates content policy")
        return Failure(code="generation_failed", message="The model gave up on this prompt")

    def _work_on(self, generation: EmulatedGeneration) -> None:
        if generation.will_fail:
            self._scheduler.add(generation.ends_at, generation.id)
            return
        task = asyncio.create_task(self._render(generation))
        self._renders.add(task)
        task.add_done_callback(self._renders.discard)

    async def _render(self, generation: EmulatedGeneration) -> None:
        try:
            clip = await self._clips.get(generation.request)
        except Exception as error:  # noqa: BLE001 -- whatever the cause, the client must see an end
            if not self.closing.is_set() and not generation.is_finished:
                logger.error("Clip of %s could not be rendered: %r", generation.id, error)
                self._fail(generation, Failure(code="render_error", message=f"Rendering failed: {error}"))
                await self.commit()
            return
        # It completes when both its work time is over and its file exists, whichever comes last.
        generation.file_size = clip.size
        self._scheduler.add(generation.ends_at, generation.id)

    def _complete(self, generation: EmulatedGeneration) -> None:
        self._bill(generation)
        self._finish(generation, "completed")

    def _bill(self, generation: EmulatedGeneration) -> None:
        price = generation.request.price_usd
        generation.cost = price if price is not None else cost_usd(generation.request.duration)
        prompt, key = generation.request.prompt, self.api_keys.label(generation.account)
        self.usage.count("billed", prompt=prompt, key=key)
        self.usage.count("billed_usd", prompt=prompt, key=key, amount=generation.cost)

    def _fail(self, generation: EmulatedGeneration, failure: Failure) -> None:
        generation.failure = failure
        self._finish(generation, "failed")

    def _finish(self, generation: EmulatedGeneration, status: EmulatedStatus) -> None:
        generation.status = status
        generation.finished = time.time()
        self._index.finish(generation)
        if not self.now_concurrency:
            self.idle.set()
        self._changed[generation.id] = generation
        self.usage.count(status)
        self._notify(generation)

    def _notify(self, generation: EmulatedGeneration) -> None:
        logger.debug("Generation %s is %s", generation.id, generation.status)
        for listener in self.listeners:
            listener(generation, generation.status)

    def _stop_work(self) -> None:
        self._scheduler.clear()
        for task in self._renders:
            task.cancel()


def month_bounds(now: datetime) -> tuple[datetime, datetime]:
    """Return the start of the calendar month of `now`, and the start of the next one."""
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if start.month == 12:
        return start, start.replace(year=start.year + 1, month=1)
    return start, start.replace(month=start.month + 1)
