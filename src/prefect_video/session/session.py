"""Session: a provider, a ledger, a store and settings, opened once and shared by all shots of a process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache, partial
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import httpx

from prefect_video._shield import shielded
from prefect_video.downloads import LinkPolicy, open_download_client
from prefect_video.errors import InvalidInput
from prefect_video.ledger import AccountStatus, Budget, BudgetUsage, Job, KeyUse, Ledger, State, describe_job
from prefect_video.limits import (
    CircuitBreaker,
    CircuitBreakerProvider,
    PrioritySemaphore,
    PromptScreen,
    RateLimiter,
    Slot,
    StepPriority,
    StepRank,
)
from prefect_video.polling import JobWatcher, LatencyCache, Poller, PollSchedule, RequestBudget
from prefect_video.providers import AccessCheck, Provider, with_key
from prefect_video.session.folder_listings import FolderListings
from prefect_video.session.fresh_generations import FreshGenerations
from prefect_video.session.settings import Settings
from prefect_video.storage import Store, WriteCheck

logger = logging.getLogger(__name__)

DEFAULT_IN_FLIGHT: Final = 10
"""Unfinished generations at once where neither the user nor the plan limits them."""
_PREPARED_SUBMITS: Final = 50
"""Greatest number of submits that are prepared before their slot is free."""
_SUBMITS_AT_ONCE: Final = 32
"""Fewer than a provider's client has connections: polls need some too."""


class SessionEvent(StrEnum):
    """An event in the life of a job: one line of the log, one step of a progress bar."""

    CLAIMED = "claimed"
    BEFORE_SEND = "before_send"
    UNANSWERED = "unanswered"
    ANSWERED = "answered"
    SUBMITTED = "submitted"
    POLLED = "polled"
    COMPLETED = "completed"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    REJECTED = "rejected"
    BEFORE_PUBLISH = "before_publish"
    NOT_PUBLISHED = "not_published"
    PUBLISHED = "published"
    STORED = "stored"
    ENDED = "ended"
    ANOMALY = "anomaly"


_LEFT_PROVIDER: Final = frozenset({SessionEvent.COMPLETED, SessionEvent.ENDED})

Observer = Callable[[SessionEvent, Job], None]
BudgetObserver = Callable[[BudgetUsage, str], None]
"""Called with a limit that is nearly used up, and the environment that the session works in."""


@dataclass
class Session:
    """A provider, a ledger and a store that belong together, and what all shots share while they are in use.

    Attributes:
        provider: Makes the videos.
        ledger: Remembers every generation.
        store: Keeps the videos.
        store_name: How the store is found again: a URL or a block's name; written to each job.
        credentials: How the credentials are found again: `env`, `emulator` or a block's name; never a key.
        budgets: Limits that hold for every claim, besides a project's own.
        screen: Refuses prompts before anything is spent, as the settings say.
        settings: The settings of the session.
        observer: Called with each event of each job.
        on_breaker_change: Called when this process has opened or closed the account's circuit breaker.
        on_budget_nearly_used: Called once for each limit of which a claim leaves four fifths or more committed.
        on_old_key: Called once a day, over all processes, while a key in use is older than the settings say.
        access: The session's free read that shows whether endpoint and key are right.
        write_check: The session's check that videos can be published to the store.
        store_turn: The right to mark the store; one shot of the process at a time.
        fresh_generations: The provider's last answers, from one step to the next.
        folder_listings: What the store's folders were seen not to hold.
        foreign_sidecars: URIs of the store's sidecars that other ledgers have written, and are not read again.
        accepted_rebuys: Ids of the jobs that may be bought again, as was requested, although others are missing too.
        repairs: By job id, how the last search for its file has found a whole one in place of a flawed one.
        reported_budgets: Names of the limits that were reported as nearly used up.
        volume_alert_at: When the alert of an unusual volume was raised last.
        account_slots: Generations of the account that may be unfinished at once; None for no known limit.
        in_flight_slots: Slots of this process's shots at the provider.
        eases_off: A 429 halves the slots of the account, for all processes; off only while its limit is being measured.
        submit_turns: Turns to send; fewer than the provider's client has connections, so that what is on record as sent
            leaves at once.
        slot_queue: Queue of this process's shots that the account has no slot for; the first asks the ledger again.
        step_priority: Precedence of submits over downloads and stores.
        slot_released: Set when this process has seen a generation leave the provider, by a poll or a webhook.
        breaker: The account's circuit breaker.
        download_slots: Slots of this process's downloads.
        rate_limiter: Spaces submits in time.
        poller: Waits for the ends of generations, for all shots of the process.
        latency: The times that past generations have taken.
        job_watcher: Waits for jobs that other processes move.
        download_client: Fetches videos.
        link_policy: The addresses that it may fetch from.
    """

    provider: Provider
    ledger: Ledger
    store: Store
    store_name: str
    credentials: str = "env"
    budgets: tuple[Budget, ...] = ()
    settings: Settings = field(default_factory=Settings.from_environment)
    observer: Observer | None = None
    on_breaker_change: Callable[[AccountStatus], None] | None = None
    on_budget_nearly_used: BudgetObserver | None = None
    on_old_key: Callable[[KeyUse], None] | None = None
    access: AccessCheck = field(init=False)
    write_check: WriteCheck = field(default_factory=WriteCheck, init=False)
    store_turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    fresh_generations: FreshGenerations = field(init=False)
    folder_listings: FolderListings = field(default_factory=FolderListings, init=False)
    foreign_sidecars: set[str] = field(default_factory=set, init=False)
    accepted_rebuys: set[str] = field(default_factory=set, init=False)
    repairs: dict[str, str] = field(default_factory=dict, init=False)
    reported_budgets: set[str] = field(default_factory=set, init=False)
    volume_alert_at: datetime | None = field(default=None, init=False)
    screen: PromptScreen = field(init=False)
    account_slots: int | None = field(init=False)
    in_flight_slots: PrioritySemaphore = field(init=False)
    eases_off: bool = field(default=True, init=False)
    submit_turns: PrioritySemaphore = field(init=False)
    slot_queue: PrioritySemaphore = field(init=False)
    step_priority: StepPriority = field(default_factory=StepPriority, init=False)
    slot_released: asyncio.Event = field(init=False)
    _slots: dict[str, Slot] = field(default_factory=dict, init=False)
    breaker: CircuitBreaker = field(init=False)
    download_slots: asyncio.Semaphore = field(init=False)
    rate_limiter: RateLimiter = field(init=False)
    poller: Poller = field(init=False)
    latency: LatencyCache = field(init=False)
    job_watcher: JobWatcher = field(init=False)
    download_client: httpx.AsyncClient = field(init=False)
    link_policy: LinkPolicy = field(init=False)

    def __post_init__(self) -> None:
        """Build what the shots of a process share."""
        settings, provider = self.settings, self.provider
        self.ledger.name_accounts([self.account_name])
        self.screen = PromptScreen(settings.screen_patterns, settings.screen_longest, settings.screen_rule)
        planned = provider.capabilities.concurrency
        self.account_slots = min(filter(None, (settings.account_slots, planned)), default=None)
        at_once = self._limit_in_flight(planned)
        self.in_flight_slots = PrioritySemaphore(at_once, near=min(at_once, _PREPARED_SUBMITS))
        self.submit_turns = PrioritySemaphore(_SUBMITS_AT_ONCE)
        self.slot_queue = PrioritySemaphore(1)
        self.slot_released = asyncio.Event()
        self.breaker = CircuitBreaker(
            self.ledger,
            provider.name,
            provider.account.id,
            threshold=settings.breaker_failures,
            open_seconds=settings.breaker_seconds,
            on_change=self.on_breaker_change,
        )
        self._guarded = CircuitBreakerProvider(provider, self.breaker)
        self.provider = self._guarded
        self._replaced: list[Provider] = []
        self._reminded_of: KeyUse | None = None
        self.access = AccessCheck(self.provider, self.credentials)
        self.download_slots = asyncio.Semaphore(settings.downloads_at_once)
        self.rate_limiter = RateLimiter(settings.submissions_per_minute)
        self.poller = Poller(
            self.provider,
            schedule=PollSchedule(max_lateness_seconds=settings.max_lateness),
            pause=self.breaker.open_for_seconds,
            budget=RequestBudget(settings.poll_budget),
        )
        self.latency = LatencyCache(self.ledger, provider.name)
        self.job_watcher = JobWatcher(self.ledger)
        self.fresh_generations = FreshGenerations(self.ledger)
        self.download_client = open_download_client()
        self.link_policy = LinkPolicy(trusted_host=urlsplit(provider.account.base_url).hostname)

    def _limit_in_flight(self, planned: int | None) -> int:
        """Return how many generations of this process may be unfinished at once; say so where it is less than asked."""
        wanted = self.settings.max_in_flight
        limit = wanted or self.account_slots or DEFAULT_IN_FLIGHT
        if self.account_slots is None or limit <= self.account_slots:
            return limit
        source = "the plan" if self.account_slots == planned else "PREFECT_VIDEO_ACCOUNT_SLOTS"
        _warn_of_limit(self.account_name, limit, self.account_slots, source)
        return self.account_slots

    def webhook_url(self, job: Job) -> str | None:
        """Return the address for the provider's webhooks about a job; None where the provider takes no address."""
        address = self.settings.webhook_url
        if address is None or not self.provider.capabilities.supports_webhook_url:
            return None
        if "/webhook" in urlsplit(address).path:
            return address.replace("{job_id}", job.id)
        return f"{address.rstrip('/')}/webhooks/{self.provider.name}"

    @property
    def account_name(self) -> str:
        """Name by which commands open this account: a block, or the provider where its key is in the environment."""
        return self.provider.name if self.credentials == "env" else self.credentials

    def provider_with_key(self, key_fingerprint: str | None) -> Provider | None:
        """Return the provider that uses this very key of the account; None where the session does not have it."""
        if self.provider.account.key_fingerprint == key_fingerprint:
            return self.provider
        # One that was replaced too: the session opened it, and what it has sent may still be waited for.
        found = (with_key(provider, key_fingerprint) for provider in (self.provider, *reversed(self._replaced)))
        return next((provider for provider in found if provider is not None), None)

    def replace_provider(self, provider: Provider) -> None:
        """Use another key of the same account from now on; what was requested with the former one is awaited.

        Raises:
            InvalidInput: It is another account.
        """
        if provider.account.id != self.provider.account.id:
            raise InvalidInput(
                f"{self.account_name} is account {self.provider.account.id}, and {provider.account.id} is another one"
            )
        self._replaced.append(self._guarded.replace(provider))
        # The new key is checked before the next claim, as the first one was.
        self.access = AccessCheck(self.provider, self.credentials)

    async def remind_of_old_key(self) -> None:
        """Report the key in use where it is old: once a day, over all processes."""
        account, limit = self.provider.account, timedelta(days=self.settings.key_reminder_days)
        use = self.ledger.keys.last_noted(account.id, account.key_fingerprint)
        if use is None or use.age < limit or use == self._reminded_of:
            return
        self._reminded_of = use
        if not await self.ledger.keys.take_reminder(use, after=limit):
            return
        logger.warning(
            "%s: the key with the fingerprint %s is in use for %d days; replace it",
            self.account_name,
            use.key_fingerprint,
            use.age.days,
        )
        if self.on_old_key:
            self.on_old_key(use)

    @asynccontextmanager
    async def in_flight_slot(self, job: Job, *, prepares: bool = True) -> AsyncIterator[None]:
        """Queue for one of the process's slots, which a job holds until its end is noticed or the context ends.

        The context begins when the slot is near, so that what precedes a submit is done by the time that it is given:
        the submit waits for it by `take_slot`. The job has precedence from the moment that the slot is given.

        Args:
            job: The job.
            prepares: Begin the context when the slot is near; otherwise when it is given.
        """
        # Until the orchestrator's limit is held too, precedence would only delay the others.
        has_limit = self.settings.concurrency_limit is not None
        on_given = None if has_limit else partial(self.step_priority.begin_urgent, job.id)
        # One that is at the provider has a slot of the account: a shot that holds one of these may wait for that.
        waits = job.state is State.RESERVED
        async with self.in_flight_slots.queue(job.priority, waits=waits, on_given=on_given) as slot:
            self._slots[job.id] = slot
            try:
                if prepares:
                    await slot.wait_until_near()
                    await self.step_priority.yield_to_urgent(StepRank.PREPARE, job.id)
                else:
                    await slot.take()
                yield
            finally:
                # Another run of this process may have taken the job up since this one has left it.
                if self._slots.get(job.id) is slot:
                    del self._slots[job.id]
                # Even where it failed: a shot that waits for a slot of the account must ask for it again.
                self.slot_released.set()

    async def take_slot(self, job: Job) -> None:
        """Wait for the slot that a job is queued for, if it is, and give the job precedence."""
        if slot := self._slots.get(job.id):
            await slot.take()
            self.step_priority.begin_urgent(job.id)

    def notify(self, event: SessionEvent, job: Job, detail: str = "") -> None:
        """Log an event of a job, for debugging, and call the observer; changes of state are logged by the ledger.

        An end frees the job's slot, and wakes up the shot that waits for the account's next one.
        """
        logger.debug(
            "%s/%s take %d: %s%s (%s)",
            job.project,
            job.shot.id,
            job.take,
            event,
            f": {detail}" if detail else "",
            describe_job(job),
        )
        if event in _LEFT_PROVIDER:
            if slot := self._slots.get(job.id):
                slot.release()
            self.slot_released.set()
        if self.observer:
            self.observer(event, job)

    def report_budgets(self, nearly_used: Iterable[BudgetUsage]) -> None:
        """Call the observer of budgets with each limit that this session has not reported yet."""
        for usage in nearly_used:
            if usage.name not in self.reported_budgets:
                self.reported_budgets.add(usage.name)
                if self.on_budget_nearly_used:
                    self.on_budget_nearly_used(usage, self.settings.environment)

    async def aclose(self) -> None:
        """Stop polling and close all connections, even while being cancelled; remote generations go on."""
        await shielded(self._close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _close(self) -> None:
        async with AsyncExitStack() as closing:
            # Called from the last to the first: the poller stops before the provider closes, the ledger closes last.
            closing.push_async_callback(self.ledger.aclose)
            closing.push_async_callback(self.store.aclose)
            for replaced in self._replaced:
                closing.push_async_callback(replaced.aclose)
            closing.push_async_callback(self.provider.aclose)
            closing.push_async_callback(self.download_client.aclose)
            closing.push_async_callback(self.job_watcher.aclose)
            closing.push_async_callback(self.poller.aclose)


@cache
def _warn_of_limit(account: str, wanted: int, allowed: int, source: str) -> None:
    """Warn, once a process, that fewer generations are made at once than were requested."""
    logger.warning(
        "%s: max_in_flight is %d, and %s of this account allows %d at once: %d are made at once",
        account,
        wanted,
        source,
        allowed,
        allowed,
    )
