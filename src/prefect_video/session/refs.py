"""References to sessions: names that may be stored and logged, and the opener that resolves them.

A `SessionRef` holds names, never secrets: `sora`, `emulator`, a store's URL, a ledger's file. Names of the kind
`block-type/block-name` stand for saved blocks, which are loaded in `prefect_video.tasks.sessions`; all others are
opened here, without an orchestrator.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from prefect_video.errors import InvalidInput, ProviderError
from prefect_video.ledger import AccountStatus, Budget, Job, KeyUse, Ledger
from prefect_video.projects import AUTO, Project
from prefect_video.providers import Provider, default_provider, open_provider
from prefect_video.session.session import BudgetObserver, Observer, Session, SessionEvent
from prefect_video.session.settings import Settings
from prefect_video.storage import Store, open_store

logger = logging.getLogger(__name__)

DEFAULT_STORE: Final = "videos"
DEFAULT_PROJECT: Final = "shots"
"""Project of shots that are requested outside of a project."""

STORE_BLOCK: Final = "video-store"
LEDGER_BLOCK: Final = "video-ledger"


class SessionRef(BaseModel):
    """A reference to a session by the names of its parts; None stands for the environment's.

    Attributes:
        provider: A provider's name or `block-type/block-name`; else `sora` when SORA_API_KEY is set, else `emulator`.
        store: A folder, a URL or `video-store/name`; else PREFECT_VIDEO_STORE, else `./videos`.
        ledger: A file, a URL without password or `video-ledger/name`; else PREFECT_VIDEO_LEDGER_URL, else SQLite
            under Prefect's home.
        max_in_flight: Unfinished generations at once; else what the credentials and the plan say.
        on_open: What a submit does while the account's breaker is open; else what the settings say.
    """

    model_config = ConfigDict(frozen=True)

    provider: str
    store: str
    ledger: str | None = None
    max_in_flight: int | None = None
    on_open: Literal["wait", "fail"] | None = None

    @classmethod
    def from_names(
        cls,
        provider: str | None = None,
        store: str | None = None,
        ledger: str | None = None,
        max_in_flight: int | None = None,
    ) -> SessionRef:
        """Build a reference, with the environment's defaults filled in and folders made absolute.

        Raises:
            InvalidInput: The ledger's URL holds a password, or a number is out of range.
        """
        if ledger and (urlsplit(ledger).password or urlsplit(ledger).username):
            raise InvalidInput(
                "ledger: a URL with a password does not belong in a parameter; save it as a video-ledger block, or"
                " set PREFECT_VIDEO_LEDGER_URL"
            )
        if max_in_flight is not None and max_in_flight < 1:
            raise InvalidInput(f"max_in_flight: at least 1, not {max_in_flight}")
        return cls(
            provider=provider or default_provider(),
            store=_absolute(store or os.environ.get("PREFECT_VIDEO_STORE") or DEFAULT_STORE),
            ledger=ledger,
            max_in_flight=max_in_flight,
        )

    @classmethod
    def for_project(
        cls,
        project: Project,
        provider: str | None = None,
        store: str | None = None,
        ledger: str | None = None,
        max_in_flight: int | None = None,
    ) -> list[SessionRef]:
        """Build the references that a project needs: of the accounts that make its shots, then of its fallbacks.

        Args:
            project: Its `provider` counts where none is given, its `accounts` where that is `auto`.
            provider: A provider's name or `block-type/block-name`.
            store: A folder, a URL or `video-store/name`.
            ledger: A file, a URL without password or `video-ledger/name`.
            max_in_flight: Unfinished generations at once.

        Raises:
            InvalidInput: A name or number is not usable; or `auto` is requested and the project names no accounts.
        """
        requested = provider or project.provider
        if requested == AUTO and not project.accounts:
            raise InvalidInput("provider 'auto' chooses among the project's `accounts`: it names none")
        makers = project.accounts if requested == AUTO else (requested,)
        named = [*makers, *(fallback.provider for fallback in project.fallbacks if fallback.provider)]
        refs = [cls.from_names(name, store, ledger, max_in_flight) for name in named]
        has_alternatives = len(makers) > 1 or bool(project.fallbacks)
        on_open: Literal["fail"] | None = "fail" if has_alternatives else None
        return list(dict.fromkeys(ref.model_copy(update={"on_open": on_open}) for ref in refs))

    @property
    def uses_blocks(self) -> bool:
        """True where any of the names stands for a block that is saved in Prefect."""
        return "/" in self.provider or self.store.startswith(f"{STORE_BLOCK}/") or names_ledger_block(self.ledger)


class SessionNames(Protocol):
    """Names of the session that a job or a run was made with.

    Attributes:
        credentials: Name of its credentials.
        store: Name of its store.
    """

    @property
    def credentials(self) -> str: ...

    @property
    def store(self) -> str: ...


NamedSessionOpener = Callable[[SessionNames], AbstractAsyncContextManager[Session]]
"""Opens a session by the names of its credentials and its store, which a job or a run was made with."""

SessionOpener = Callable[[Job], AbstractAsyncContextManager[Session]]
"""Opens the session that a job was made with: its credentials, its store."""


def ref_for_job(job: SessionNames, ledger: str | None) -> SessionRef:
    """Build the reference to the session that a job was made with."""
    return SessionRef(provider=job.credentials, store=job.store, ledger=ledger)


def group_by_session(jobs: Iterable[Job]) -> list[list[Job]]:
    """Group jobs by the session that they were made with, so that each is opened once."""
    groups: dict[tuple[str, str], list[Job]] = defaultdict(list)
    for job in jobs:
        groups[job.credentials, job.store].append(job)
    return list(groups.values())


def names_ledger_block(name: str | None) -> bool:
    """Check if a ledger's name stands for a block that is saved in Prefect."""
    return bool(name) and str(name).startswith(f"{LEDGER_BLOCK}/")


@dataclass(frozen=True)
class LedgerSource:
    """A ledger that a name stands for, before it is opened.

    Attributes:
        url: Its address, which may hold a password; None for the environment's.
        block: The saved block that it is from.
        budgets: The limits that hold for every claim.
        overrides: The settings that it decides.
    """

    url: str | None = field(repr=False)
    block: str | None = None
    budgets: tuple[Budget, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)


class NameResolver:
    """Resolver of the names in a reference; an orchestrator's subclass resolves its saved blocks too."""

    async def provider(self, name: str) -> tuple[Provider, Mapping[str, Any]]:
        """Open a provider; returns it with the settings that its credentials decide.

        Raises:
            InvalidInput: The name is not known, stands for a block, or a variable is missing.
        """
        _refuse_block(name, "/" in name)
        return await asyncio.to_thread(open_provider, name), {}

    async def store(self, name: str) -> Store:
        """Open a store; no request is made to it yet.

        Raises:
            InvalidInput: The name is not understood, or stands for a block.
        """
        _refuse_block(name, name.startswith(f"{STORE_BLOCK}/"))
        return open_store(name)

    async def ledger(self, name: str | None) -> LedgerSource:
        """Find a ledger.

        Raises:
            InvalidInput: The name stands for a block.
        """
        _refuse_block(name, names_ledger_block(name))
        return LedgerSource(name)


def _refuse_block(name: str | None, is_block: bool) -> None:
    if is_block:
        raise InvalidInput(f"{name!r} is a saved block: those are opened with prefect_video.tasks.open_session")


async def open_session(
    ref: SessionRef,
    *,
    resolver: NameResolver | None = None,
    observer: Observer | None = None,
    on_breaker_change: Callable[[AccountStatus], None] | None = None,
    on_budget_nearly_used: BudgetObserver | None = None,
    on_old_key: Callable[[KeyUse], None] | None = None,
) -> Session:
    """Open the session of a reference; close it, or use it as an async context manager.

    Args:
        ref: The names.
        resolver: Resolves them; without one, names of blocks are refused.
        observer: Called with each event of each job; by default all observers added with `observe`.
        on_breaker_change: Called when this process has opened or closed the account's circuit breaker.
        on_budget_nearly_used: Called once for each limit of which a claim leaves four fifths or more committed.
        on_old_key: Called once a day, over all processes, while a key in use is older than the settings say.

    Raises:
        InvalidInput: A name is not known, or a variable or block is missing.
        LedgerError: The ledger cannot be used.
    """
    resolver = resolver or NameResolver()
    async with AsyncExitStack() as opened:
        provider, from_credentials = await resolver.provider(ref.provider)
        opened.push_async_callback(provider.aclose)
        source = await resolver.ledger(ref.ledger)
        own = {"max_in_flight": ref.max_in_flight, "on_open": ref.on_open}
        given = {name: value for name, value in own.items() if value is not None}
        settings = Settings.from_environment(**{**from_credentials, **source.overrides, **given})
        store = await resolver.store(ref.store)
        opened.push_async_callback(store.aclose)
        await load_capabilities(provider)
        ledger = await Ledger.open(source.url, lease_seconds=settings.lease_seconds, block=source.block)
        # The session owns them from here on.
        opened.pop_all()
    return Session(
        provider=provider,
        ledger=ledger,
        store=store,
        store_name=ref.store,
        credentials=ref.provider,
        budgets=source.budgets,
        settings=settings,
        observer=observer or notify_observers,
        on_breaker_change=on_breaker_change,
        on_budget_nearly_used=on_budget_nearly_used,
        on_old_key=on_old_key,
    )


async def open_ledger(name: str | None, *, resolver: NameResolver | None = None) -> Ledger:
    """Open the ledger alone, by the name that a reference would hold; close it, or use it as a context manager.

    Raises:
        InvalidInput: The name is not understood, or there is no such block.
        LedgerError: The ledger cannot be used.
    """
    source = await (resolver or NameResolver()).ledger(name)
    lease_seconds = Settings.from_environment().lease_seconds
    return await Ledger.open(source.url, lease_seconds=lease_seconds, block=source.block)


async def load_capabilities(provider: Provider) -> Provider:
    """Let a provider read its models and prices; one that does not answer keeps those that are known."""
    try:
        await provider.load_capabilities()
    except ProviderError as error:
        logger.warning("%s: its models and prices could not be read: %s", provider.name, error)
    return provider


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Call an observer with every event of every session of this process, for as long as the context lasts."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def notify_observers(event: SessionEvent, job: Job) -> None:
    """Call all observers; the observer of sessions that are opened by reference."""
    for observer in _observers:
        observer(event, job)


_observers: list[Observer] = []


def _absolute(store: str) -> str:
    if "://" in store or store.startswith(f"{STORE_BLOCK}/"):
        return store
    return Path(store).expanduser().resolve().as_uri()
