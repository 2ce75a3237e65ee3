"""The provider behind every dialect: accounts, generations, and the clock that moves them."""

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
from prefect_video.emulator.faults.rules import FaultRules
from prefect_video.emulator.generation import Failure, Generation, GenerationIndex, GenerationRequest, Status, cost_usd
from prefect_video.emulator.rendering.clips import ClipLibrary
from prefect_video.emulator.rendering.spec import Clip
from prefect_video.emulator.scheduler import Scheduler
from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.emulator.state_store import StateStore, StateStoreError
from prefect_video.emulator.timing import QUEUED_SHARE, WorkDistribution
from prefect_video.emulator.usage import UsageCounters

logger = logging.getLogger("prefect_video.emulator")

FAILING_PROMPT = "[fail]"
CANCELLABLE_SHARE = 0.5

Listener = Callable[[Generation, Status], None]


class Engine:
    """All state of one emulator. Every method runs on the emulator's event loop.

    Changes are made in memory at once and become durable with :meth:`commit`, which every answer awaits
    before it leaves.

    Attributes:
        books: What happened, counted.
        faults: The rules in force.
        closing: Set when the emulator is shutting down.
        idle: Set while no generation is under way.
        listeners: Called with a generation and its new status at every change.
    """

    def __init__(self, settings: EmulatorSettings, journal: StateStore, clips: ClipLibrary) -> None:
        self.settings = settings
        self.accounts = ApiKeys(settings)
        self.books = UsageCounters()
        self.faults = FaultRules(settings.faults)
        self.closing = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.listeners: list[Listener] = []
        self._journal = journal
        self._clips = clips
        self._times = WorkDistribution.parse(settings.times)
        self._index = GenerationIndex()
        self._accepted = 0
        self._changed: dict[str, Generation] = {}
        self._agenda = Scheduler(self._advance)
        self._renders: set[asyncio.Task[None]] = set()
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Move generations along as their time comes, until cancelled."""
        async for _ in self._agenda:
            try:
                await self.commit()
            except StateStoreError as error:
                logger.error("%s; tried again with the next change", error)

    async def load(self) -> None:
        """Take up what the journal holds; generations under way go on as if time had not stopped."""
        generations, lines = await self._journal.load()
        self.books = UsageCounters(lines)
        self._accepted = len(generations)
        for generation in generations:
            self._index.add(generation)
        for generation in self._index.all_unfinished():
            self.idle.clear()
            self._resume(generation)

    async def commit(self) -> None:
        """Return when every change made so far is durable; concurrent callers share one transaction.

        Raises:
            StateStoreError: They could not be written; they stay pending.
        """
        async with self._writing:
            if not self._changed and not self.books.changed:
                return
            generations, self._changed = self._changed, {}
            lines, self.books.changed = self.books.changed, set()
            try:
                await self._journal.write(generations.values(), [(line, self.books.value(line)) for line in lines])
            except BaseException:
                # Also when the request was cancelled, and it is not known what was written: twice does no harm.
                self._changed = generations | self._changed
                self.books.changed |= lines
                raise

    async def reset(self) -> None:
        """Forget every generation, count and fault."""
        self._stop_work()
        self._index.clear()
        self._accepted = 0
        self.idle.set()
        self.faults.clear()
        async with self._writing:
            self._changed.clear()
            self.books.clear()
            await self._journal.clear()

    async def restart(self) -> None:
        """Forget every generation, as an engine that keeps them in memory does; the books go on.

        Where ids are counted, they begin anew.
        """
        self._stop_work()
        self._index.clear()
        self._accepted = 0
        self.idle.set()
        async with self._writing:
            self._changed.clear()
            await self._journal.forget_generations()

    def echo_prompt(self, generation: Generation) -> str | None:
        """Return the prompt of a generation as this provider tells it."""
        return echo_prompt(generation.request.prompt, self.settings.echo_prompt)

    def told_time(self, seconds: float) -> float:
        """Return a time by the clock that generations are timed by."""
        return seconds + self.settings.clock_offset_seconds

    def change_habits(self, **changes: Any) -> None:
        """Go on with other settings of how prompts, keys, times and ids are told."""
        self.settings = EmulatorSettings.model_validate({**self.settings.model_dump(), **changes})

    async def close(self) -> None:
        """Stop all work and write down what is left."""
        self.closing.set()
        renders = list(self._renders)
        self._stop_work()
        await asyncio.gather(*renders, return_exceptions=True)
        await self.commit()

    def submit(
        self,
        account: str,
        dialect: str,
        order: GenerationRequest,
        *,
        fail_at_once: bool = False,
        queueing: bool = False,
        moderated_later: bool = False,
        id_prefix: str = "gen_",
        verdict: Failure | None = None,
    ) -> Generation:
        """Accept an order.

        Args:
            account: Whose it is.
            dialect: In whose words its webhooks are.
            order: What is wanted.
            fail_at_once: Whether it fails right after it was accepted.
            queueing: Whether everything is let in, as job queues do: policy and a full account only show later.
            moderated_later: Whether a prompt against policy is let in, and fails.
            id_prefix: What its id begins with.
            verdict: Why it will fail at the end of its work, and be billed all the same.

        Raises:
            Refusal: The prompt is against policy, or the account's quota or capacity is used up.
        """
        if not (queueing or moderated_later) and self._breaks_policy(order):
            raise ApiError("policy", "Prompt violates content policy")
        self._check_quota(account)
        if not queueing:
            self._check_capacity(account)
        now = time.time()
        work = self._times.work_seconds(order.seed, order.duration) / self.settings.speed
        generation = Generation(
            id=f"{id_prefix}{self._next_id()}",
            dialect=dialect,
            account=account,
            request=order,
            created=now,
            starts_at=now + work * QUEUED_SHARE,
            ends_at=now + work,
            will_fail=verdict is not None or FAILING_PROMPT in order.prompt or self._breaks_policy(order),
            verdict=verdict,
        )
        self._index.add(generation)
        self.idle.clear()
        self._changed[generation.id] = generation
        key = self.accounts.label(account)
        self.books.count("accepted", prompt=order.prompt, key=key)
        self.books.record_peak(self.now_concurrency)
        self.books.record_peak(self._index.count_unfinished(account), key=key)
        self._notify(generation)
        if fail_at_once:
            self._fail(generation, Failure(code="internal_failure", message="Internal generation failure"))
        else:
            self._agenda.add(generation.starts_at, generation.id)
        return generation

    def retrieve(self, account: str, generation_id: str) -> Generation:
        """A generation of this account.

        Raises:
            Refusal: There is none of that id.
        """
        generation = self._index.get(generation_id)
        if generation is None or generation.account != account or generation.deleted:
            raise ApiError("not_found", f"No generation with id {generation_id!r} exists under this key")
        return generation

    def find(self, generation_id: str) -> Generation | None:
        """A generation of any account, as the download host sees them."""
        generation = self._index.get(generation_id)
        return None if generation is None or generation.deleted else generation

    def list_generations(self, account: str) -> list[Generation]:
        """Return the account's generations, newest first."""
        return [generation for generation in self._index.newest_first(account) if not generation.deleted]

    def cancel(self, account: str, generation_id: str) -> Generation:
        """Cancel what is queued or at most half done; cancelling twice is no error.

        Raises:
            Refusal: There is none of that id, or it is too far on or over.
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

    def stop(self, generation: Generation) -> None:
        """End a generation as cancelled, however far it is; nothing happens to one that is over."""
        if not generation.is_finished:
            self._finish(generation, "cancelled")

    def change_speed(self, speed: float) -> None:
        """Go on at another speed: what is left of the work under way is divided by it too."""
        now, factor = time.time(), self.settings.speed / speed
        self.settings = self.settings.model_copy(update={"speed": speed})
        for generation in self._index.all_unfinished():
            generation.starts_at = now + (generation.starts_at - now) * factor
            generation.ends_at = now + (generation.ends_at - now) * factor
            self._changed[generation.id] = generation
            self._resume(generation)

    def forget(self, generation: Generation) -> None:
        """No longer show a generation; work on it, and its bill, go on."""
        generation.deleted = True
        self._changed[generation.id] = generation

    @property
    def now_concurrency(self) -> int:
        """Unfinished generations of all accounts."""
        return self._index.count_unfinished()

    async def clip(self, generation: Generation) -> Clip:
        """The rendered video of a generation."""
        return await self._clips.get(generation.request)

    def _breaks_policy(self, order: GenerationRequest) -> bool:
        folded = order.prompt.casefold()
        return any(word.casefold() in folded for word in self.settings.forbidden)

    def _check_quota(self, account: str) -> None:
        if self.settings.monthly_quota is None:
            return
        now = datetime.now(UTC)
        start, end = month_of(now)
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
        return f"{self._accepted:024d}" if self.settings.ids == "counting" else uuid.uuid4().hex[:24]

    def _resume(self, generation: Generation) -> None:
        if generation.status == "queued":
            self._agenda.add(generation.starts_at, generation.id)
        else:
            self._work_on(generation)

    def _advance(self, generation_id: str) -> None:
        """Take the step that is due; jobs that a step or a change of speed has made stale are passed over."""
        generation = self._index.get(generation_id)
        if generation is None or generation.is_finished or generation.next_step_at > time.time():
            return
        if generation.status == "queued":
            generation.status = "processing"
            self._changed[generation.id] = generation
            self._notify(generation)
            self._work_on(generation)
        elif generation.will_fail:
            if generation.verdict is not None:
                self._bill(generation)
            self._fail(generation, generation.verdict or self._verdict(generation.request))
        elif generation.file_size is not None:
            self._complete(generation)

    def _verdict(self, order: GenerationRequest) -> Failure:
        if self._breaks_policy(order):
            return Failure(code="content_policy_violation", message="Prompt violates content policy")
        return Failure(code="generation_failed", message="The model gave up on this prompt")

    def _work_on(self, generation: Generation) -> None:
        if generation.will_fail:
            self._agenda.add(generation.ends_at, generation.id)
            return
        task = asyncio.create_task(self._render(generation))
        self._renders.add(task)
        task.add_done_callback(self._renders.discard)

    async def _render(self, generation: Generation) -> None:
        try:
            clip = await self._clips.get(generation.request)
        except Exception as error:  # noqa: BLE001 -- whatever goes wrong, the client must see an end
            if not self.closing.is_set() and not generation.is_finished:
                logger.error("Clip of %s could not be rendered: %r", generation.id, error)
                self._fail(generation, Failure(code="render_error", message=f"Rendering failed: {error}"))
                await self.commit()
            return
        generation.file_size = clip.size
        self._agenda.add(generation.ends_at, generation.id)

    def _complete(self, generation: Generation) -> None:
        self._bill(generation)
        self._finish(generation, "completed")

    def _bill(self, generation: Generation) -> None:
        price = generation.request.price_usd
        generation.cost = price if price is not None else cost_usd(generation.request.duration)
        prompt, key = generation.request.prompt, self.accounts.label(generation.account)
        self.books.count("billed", prompt=prompt, key=key)
        self.books.count("billed_usd", prompt=prompt, key=key, amount=generation.cost)

    def _fail(self, generation: Generation, failure: Failure) -> None:
        generation.failure = failure
        self._finish(generation, "failed")

    def _finish(self, generation: Generation, status: Status) -> None:
        generation.status = status
        generation.finished = time.time()
        self._index.finish(generation)
        if not self.now_concurrency:
            self.idle.set()
        self._changed[generation.id] = generation
        self.books.count(status)
        self._notify(generation)

    def _notify(self, generation: Generation) -> None:
        logger.debug("Generation %s is %s", generation.id, generation.status)
        for listener in self.listeners:
            listener(generation, generation.status)

    def _stop_work(self) -> None:
        self._agenda.clear()
        for task in self._renders:
            task.cancel()


def month_of(now: datetime) -> tuple[datetime, datetime]:
    """Return when the calendar month of `now` started and when the next one starts."""
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if start.month == 12:
        return start, start.replace(year=start.year + 1, month=1)
    return start, start.replace(month=start.month + 1)
