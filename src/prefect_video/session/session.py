"""The studio: everything that making videos needs, opened once and shared by all shots of a process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import httpx

from prefect_video._shield import to_its_end
from prefect_video.downloads.transfer import open_download_client
from prefect_video.downloads.url_safety import LinkPolicy
from prefect_video.ledger import Budget, Entry, Ledger, Standing
from prefect_video.limits.circuit_breaker import Breaker, GuardedProvider
from prefect_video.limits.priority_semaphore import Turns
from prefect_video.limits.prompt_screen import PromptScreen
from prefect_video.limits.rate_limiter import Pace
from prefect_video.polling.job_watcher import RowWatch
from prefect_video.polling.latency import LearnedTimes
from prefect_video.polling.poller import Watcher
from prefect_video.providers.access import AccessCheck
from prefect_video.providers.base import Provider
from prefect_video.session.fresh_generations import FreshGenerations
from prefect_video.session.settings import StudioSettings
from prefect_video.storage import Store

logger = logging.getLogger(__name__)

DEFAULT_IN_FLIGHT: Final = 10
"""Unfinished generations at once where neither the user nor the plan says."""


class SessionEvent(StrEnum):
    """A step of a row: one line of the log, one step of a progress bar."""

    CLAIMED = "claimed"
    BEFORE_SEND = "before_send"
    UNANSWERED = "unanswered"
    ANSWERED = "answered"
    SUBMITTED = "submitted"
    POLLED = "polled"
    COMPLETED = "completed"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    BEFORE_PUBLISH = "before_publish"
    NOT_PUBLISHED = "not_published"
    PUBLISHED = "published"
    STORED = "stored"
    ENDED = "ended"
    ANOMALY = "anomaly"


Observer = Callable[[SessionEvent, Entry], None]


@dataclass
class Studio:
    """A provider, a ledger and a store that belong together, and what is shared while they are in use.

    Attributes:
        provider: Makes the videos.
        ledger: Remembers every generation.
        store: Keeps the videos.
        store_name: How the store is found again: a URL or a block's name; written to each row.
        credentials: How the credentials are found again: `env`, `emulator` or a block's name; never a key.
        budgets: Limits that hold for every claim, besides a project's own.
        screen: Refuses prompts before anything is spent, as the settings say.
        settings: See `StudioSettings`.
        observer: Called with each step of each row.
        on_breaker_change: Called when this process has opened or closed the account's circuit breaker.
        access: The session's free read that shows whether endpoint and key are right.
        fresh_generations: The provider's last answers, from one step to the next.
        foreign_sidecars: URIs of the store's sidecars that other ledgers have written, and are not read again.
        volume_alert_at: When the alert of an unusual volume was raised last.
        account_slots: Generations of the account that may be unfinished at once; None for no limit that is known.
        slots: Turns of this process's shots at the provider.
        slot_queue: Turns to ask the ledger for a slot of the account.
        slot_freed: Set when a shot of this process has left the provider.
        breaker: The account's circuit breaker.
        download_slots: Turns of this process's downloads.
        pace: Spaces submits.
        watcher: Waits for the ends of generations, for all shots of the process.
        times: How long generations have taken.
        rows: Waits for rows that other processes move.
        download_client: Fetches videos.
        link_policy: The addresses that it may fetch from.
    """

    provider: Provider
    ledger: Ledger
    store: Store
    store_name: str
    credentials: str = "env"
    budgets: tuple[Budget, ...] = ()
    settings: StudioSettings = field(default_factory=StudioSettings.from_environment)
    observer: Observer | None = None
    on_breaker_change: Callable[[Standing], None] | None = None
    access: AccessCheck = field(init=False)
    fresh_generations: FreshGenerations = field(init=False)
    foreign_sidecars: set[str] = field(default_factory=set, init=False)
    volume_alert_at: datetime | None = field(default=None, init=False)
    screen: PromptScreen = field(init=False)
    account_slots: int | None = field(init=False)
    slots: Turns = field(init=False)
    slot_queue: Turns = field(init=False)
    slot_freed: asyncio.Event = field(init=False)
    breaker: Breaker = field(init=False)
    download_slots: asyncio.Semaphore = field(init=False)
    pace: Pace = field(init=False)
    watcher: Watcher = field(init=False)
    times: LearnedTimes = field(init=False)
    rows: RowWatch = field(init=False)
    download_client: httpx.AsyncClient = field(init=False)
    link_policy: LinkPolicy = field(init=False)

    def __post_init__(self) -> None:
        """Build what the shots of a process share, from what was given."""
        settings, provider = self.settings, self.provider
        self.screen = PromptScreen(settings.screen_patterns, settings.screen_longest, settings.screen_rule)
        planned = provider.capabilities.concurrency
        self.account_slots = min(filter(None, (settings.account_slots, planned)), default=None)
        limit = settings.max_in_flight or self.account_slots or DEFAULT_IN_FLIGHT
        self.slots = Turns(min(limit, self.account_slots or limit))
        self.slot_queue = Turns(1)
        self.slot_freed = asyncio.Event()
        self.breaker = Breaker(
            self.ledger,
            provider.name,
            provider.account.id,
            threshold=settings.breaker_failures,
            open_seconds=settings.breaker_seconds,
            on_change=self.on_breaker_change,
        )
        self.provider = GuardedProvider(provider, self.breaker)
        self.access = AccessCheck(self.provider, self.credentials)
        self.download_slots = asyncio.Semaphore(settings.downloads_at_once)
        self.pace = Pace(settings.submissions_per_minute)
        self.watcher = Watcher(self.provider, pause=self.breaker.pause_seconds)
        self.times = LearnedTimes(self.ledger, provider.name)
        self.rows = RowWatch(self.ledger)
        self.fresh_generations = FreshGenerations(self.ledger)
        self.download_client = open_download_client()
        self.link_policy = LinkPolicy(trusted_host=urlsplit(provider.account.base_url).hostname)

    def webhook_url(self, entry: Entry) -> str | None:
        """Return the address for the provider's webhooks about a row; None where the provider takes no address."""
        address = self.settings.webhook_url
        if address is None or not self.provider.capabilities.takes_webhook_url:
            return None
        if "/webhook" in urlsplit(address).path:
            return address.replace("{job_id}", entry.id)
        return f"{address.rstrip('/')}/webhooks/{self.provider.name}"

    def tell(self, event: SessionEvent, entry: Entry, detail: str = "") -> None:
        """Logs a step of a row and tells the observer."""
        cost = entry.cost_usd
        logger.info(
            "%s/%s take %d: %s%s (row %s, generation %s, $%s)",
            entry.project,
            entry.shot.id,
            entry.take,
            event,
            f": {detail}" if detail else "",
            entry.id,
            entry.generation_id or "-",
            cost if cost is not None else "?",
        )
        if self.observer:
            self.observer(event, entry)

    async def aclose(self) -> None:
        """Ends watches and closes all connections, even while being cancelled; remote generations go on."""
        await to_its_end(self._close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _close(self) -> None:
        async with AsyncExitStack() as closing:
            # From the last to the first; each is closed, whatever becomes of the others.
            closing.push_async_callback(self.ledger.aclose)
            closing.push_async_callback(self.store.aclose)
            closing.push_async_callback(self.provider.aclose)
            closing.push_async_callback(self.download_client.aclose)
            closing.push_async_callback(self.rows.aclose)
            closing.push_async_callback(self.watcher.aclose)
