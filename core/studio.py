"""The studio: everything that making videos needs, opened once and shared by all shots of a process."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from getpass import getuser
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

import httpx
from pydantic import Field, ImportString, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from prefect_video.downloads import open_download_client
from prefect_video.errors import InvalidInput
from prefect_video.generations import Generation
from prefect_video.ledger import Budget, Entry, Ledger
from prefect_video.links import LinkPolicy
from prefect_video.providers.base import Provider
from prefect_video.providers.guarded import GuardedProvider
from prefect_video.screening import PromptScreen
from prefect_video.shots import PROMPT_LIMIT
from prefect_video.storage import Store
from prefect_video.unbroken import to_its_end
from prefect_video.waiting.breaker import Breaker
from prefect_video.waiting.learned import LearnedTimes
from prefect_video.waiting.pace import Pace
from prefect_video.waiting.rows import RowWatch
from prefect_video.waiting.turns import Turns
from prefect_video.waiting.watcher import Watcher

logger = logging.getLogger(__name__)

DEFAULT_IN_FLIGHT: Final = 10
"""Unfinished generations at once where neither the user nor the plan says."""

Moment = Literal[
    "claimed",
    "before_send",
    "unanswered",
    "answered",
    "submitted",
    "polled",
    "completed",
    "downloading",
    "downloaded",
    "before_publish",
    "not_published",
    "published",
    "stored",
    "ended",
    "anomaly",
]
"""What an observer is told of: one line of the log, one step of a progress bar."""

Observer = Callable[[Moment, Entry], None]


class StudioSettings(BaseSettings):
    """How a studio behaves; each field can be set as `PREFECT_VIDEO_<FIELD>` in the environment.

    Attributes:
        environment: Fingerprints are shared within one environment only.
        max_in_flight: Generations of this process that may be unfinished at once; None for what the plan allows.
        account_slots: Generations of the account that may be unfinished at once, over all processes and machines
            that share the ledger; None for what the plan allows.
        concurrency_limit: Name of a limit of the orchestrator's own that is held from submit to the end of poll.
        breaker_failures: Troubles of the provider in a row that open the account's circuit breaker.
        breaker_seconds: How long it stays open before one submit may try.
        on_open: What a submit does while it is open: wait, or fail at once.
        submissions_per_minute: Submits of this process a minute, evenly spaced; None for no limit.
        submit_patience_seconds: How long a submit that was turned away (429, no connection) is sent again.
        settle_seconds: How long after a submit's outcome has become unknown its absence from the provider's list proves
            nothing: longer than a submit can be on its way (`HttpSettings.submit_deadline_seconds`).
        on_unknown: What to do when a provider cannot tell whether it accepted: hold for a human, or send again.
        on_lost: What to do when a provider no longer knows a generation: hold for a human, or buy a new one.
        deadline_seconds: How long after its submit a generation is waited for.
        on_deadline: What to do with one that has not ended by then: cancel it where the provider still can, leave it
            running for `collect`, or hold it for a human.
        downloads_at_once: Videos downloaded and published at the same time.
        anomalous_per_hour: Submissions per hour and account from which on an alert is raised; None for never.
        screen_patterns: Regular expressions that no prompt may match, as a JSON list in the environment.
        screen_longest: Most characters of a prompt.
        screen_rule: `package.module.function` or `…:function`: answers why a shot is refused, or None; it may be async.
        ttl_seconds: How old a stored asset may be to count as the answer; None for ever.
        lease_seconds: How long after its last sign of life another machine's process counts as dead.
        webhook_url: Public address of `prefect-video serve`, such as `https://video.example.com`, where providers
            announce changes; what they are given is `{webhook_url}/webhooks/{provider}`. An address whose path
            holds `/webhook` is taken as it is, with the row's id for `{job_id}`.
        spool: Folder for videos on their way to the store.
    """

    model_config = SettingsConfigDict(env_prefix="PREFECT_VIDEO_", frozen=True, extra="ignore")

    environment: Literal["development", "staging", "production"] = "production"
    max_in_flight: int | None = Field(default=None, ge=1)
    account_slots: int | None = Field(default=None, ge=1)
    concurrency_limit: str | None = None
    breaker_failures: int = Field(default=5, ge=1)
    breaker_seconds: float = Field(default=300.0, gt=0)
    on_open: Literal["wait", "fail"] = "wait"
    submissions_per_minute: float | None = Field(default=None, gt=0)
    submit_patience_seconds: float = Field(default=900.0, ge=0)
    settle_seconds: float = Field(default=90.0, ge=0)
    on_unknown: Literal["hold", "resubmit"] = "hold"
    on_lost: Literal["hold", "resubmit"] = "hold"
    deadline_seconds: float = Field(default=3600.0, gt=0)
    on_deadline: Literal["cancel", "leave", "hold"] = "leave"
    downloads_at_once: int = Field(default=4, ge=1)
    anomalous_per_hour: int | None = Field(default=None, ge=1)
    screen_patterns: tuple[str, ...] = ()
    screen_longest: int = Field(default=PROMPT_LIMIT, ge=1)
    screen_rule: ImportString[Any] | None = None
    ttl_seconds: float | None = Field(default=None, ge=0)
    lease_seconds: float = Field(default=30.0, gt=0)
    webhook_url: str | None = Field(default=None, pattern=r"^https?://[^/?#@]+[^?#]*$")
    spool: Path = Field(default_factory=lambda: Path(tempfile.gettempdir()) / f"prefect-video-spool-{getuser()}")

    @classmethod
    def from_environment(cls, **given: Any) -> Self:
        """Settings from `PREFECT_VIDEO_*`, with what is given taking precedence; None counts as not given.

        Raises:
            InvalidInput: A variable or an argument is not usable.
        """
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise InvalidInput(f"setting {name} (PREFECT_VIDEO_{name.upper()}): {first['msg']}") from error


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
        observer: Told of each step of each row.
    """

    provider: Provider
    ledger: Ledger
    store: Store
    store_name: str
    credentials: str = "env"
    budgets: tuple[Budget, ...] = ()
    settings: StudioSettings = field(default_factory=StudioSettings.from_environment)
    observer: Observer | None = None
    last_told: dict[str, Generation] = field(default_factory=dict, init=False)
    foreign_sidecars: set[str] = field(default_factory=set, init=False)
    volume_alert_at: datetime | None = field(default=None, init=False)
    screen: PromptScreen = field(init=False)

    def __post_init__(self) -> None:
        self.screen = PromptScreen(
            self.settings.screen_patterns, self.settings.screen_longest, self.settings.screen_rule
        )
        planned = self.provider.capabilities.concurrency
        self.account_slots = min(filter(None, (self.settings.account_slots, planned)), default=None)
        limit = self.settings.max_in_flight or self.account_slots or DEFAULT_IN_FLIGHT
        self.slots = Turns(min(limit, self.account_slots or limit))
        self.slot_queue = Turns(1)
        self.slot_freed = asyncio.Event()
        self.breaker = Breaker(
            self.ledger,
            self.provider.name,
            self.provider.account.id,
            threshold=self.settings.breaker_failures,
            open_seconds=self.settings.breaker_seconds,
        )
        self.provider = GuardedProvider(self.provider, self.breaker)
        self.download_slots = asyncio.Semaphore(self.settings.downloads_at_once)
        self.pace = Pace(self.settings.submissions_per_minute)
        self.watcher = Watcher(self.provider, pause=self.breaker.pause_seconds)
        self.times = LearnedTimes(self.ledger, self.provider.name)
        self.rows = RowWatch(self.ledger)
        self.download_client: httpx.AsyncClient = open_download_client()
        self.link_policy = LinkPolicy(trusted_host=urlsplit(self.provider.account.base_url).hostname)

    def webhook_url(self, entry: Entry) -> str | None:
        """Where the provider is told to announce changes of a row's generation; None where it takes no address."""
        address = self.settings.webhook_url
        if address is None or not self.provider.capabilities.takes_webhook_url:
            return None
        if "/webhook" in urlsplit(address).path:
            return address.replace("{job_id}", entry.id)
        return f"{address.rstrip('/')}/webhooks/{self.provider.name}"

    def tell(self, moment: Moment, entry: Entry, detail: str = "") -> None:
        """Logs a step of a row and tells the observer."""
        cost = entry.actual_usd if entry.actual_usd is not None else entry.reserved_usd
        logger.info(
            "%s/%s take %d: %s%s (row %s, generation %s, $%s)",
            entry.project,
            entry.shot.id,
            entry.take,
            moment,
            f": {detail}" if detail else "",
            entry.id,
            entry.generation_id or "-",
            cost if cost is not None else "?",
        )
        if self.observer:
            self.observer(moment, entry)

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
