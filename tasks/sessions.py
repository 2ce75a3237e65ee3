"""Shared sessions: each reference of a flow or task is opened once a process, with the blocks that it names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from prefect.blocks.core import Block

from prefect_video._clean_text import enable_clean_logs
from prefect_video._crash_trace import enable_crash_trace
from prefect_video._shield import shielded
from prefect_video.blocks import VideoLedger, VideoStore
from prefect_video.blocks.base import ProviderCredentials
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Job, Ledger
from prefect_video.providers import Provider
from prefect_video.session import (
    LedgerSource,
    NameResolver,
    Session,
    SessionEvent,
    SessionRef,
    notify_observers,
    observe,
    open_session,
)
from prefect_video.session import open_ledger as open_named_ledger
from prefect_video.storage import Store
from prefect_video.tasks.default_ledger import warn_about_default_ledger
from prefect_video.tasks.events import announce_anomaly, announce_breaker, announce_budget, announce_old_key
from prefect_video.tasks.run_logs import send_logs

__all__ = ["BlockResolver", "SessionRef", "load_credentials", "observe", "open_ledger", "use_session"]

BlockT = TypeVar("BlockT", bound=Block)


@asynccontextmanager
async def use_session(ref: SessionRef) -> AsyncIterator[Session]:
    """Use the session of a reference, shared by all its users in this event loop; the last one closes it.

    Raises:
        InvalidInput: A name is not known, or a variable or block is missing.
        LedgerError: The ledger cannot be used.
    """
    # Flows and tasks come here in every process that a worker runs them in.
    enable_crash_trace()
    enable_clean_logs()
    key = (id(asyncio.get_running_loop()), ref)
    shared = _open.get(key)
    if shared is None:
        shared = _open[key] = _Shared(asyncio.ensure_future(_open_anew(ref)))
    shared.users += 1
    try:
        with send_logs():
            # Shielded: one user that is cancelled must not cancel the opening for the other users.
            yield await asyncio.shield(shared.opening)
    finally:
        shared.users -= 1
        if not shared.users:
            _open.pop(key, None)
            await shielded(_close(shared))


@asynccontextmanager
async def open_ledger(name: str | None) -> AsyncIterator[Ledger]:
    """Open the ledger alone, by the name that a `SessionRef` would hold.

    Raises:
        InvalidInput: There is no such block.
        LedgerError: The ledger cannot be used.
    """
    enable_crash_trace()
    enable_clean_logs()
    with send_logs():
        async with await open_named_ledger(name, resolver=BlockResolver()) as ledger:
            yield ledger


@dataclass
class _Shared:
    opening: asyncio.Future[Session]
    users: int = 0


_open: dict[tuple[int, SessionRef], _Shared] = {}


async def _open_anew(ref: SessionRef) -> Session:
    warn_about_default_ledger(ref)
    return await open_session(
        ref,
        resolver=BlockResolver(),
        observer=_observe,
        on_breaker_change=announce_breaker,
        on_budget_nearly_used=announce_budget,
        on_old_key=announce_old_key,
    )


def _observe(event: SessionEvent, job: Job) -> None:
    notify_observers(event, job)
    announce_anomaly(event, job)


async def _close(shared: _Shared) -> None:
    if not shared.opening.done():
        shared.opening.cancel()
        await asyncio.gather(shared.opening, return_exceptions=True)
    elif not shared.opening.cancelled() and shared.opening.exception() is None:
        await shared.opening.result().aclose()


class BlockResolver(NameResolver):
    """Resolver of names that knows the blocks saved in Prefect."""

    async def provider(self, name: str) -> tuple[Provider, Mapping[str, Any]]:
        """Open a provider by its name or with a block of credentials."""
        if "/" not in name:
            return await super().provider(name)
        block = await _load_any(name)
        if isinstance(block, ProviderCredentials):
            return block.open(), block.session_overrides()
        if not hasattr(block, "get_client"):
            raise InvalidInput(f"provider {name!r}: this block holds no provider's credentials")
        return block.get_client(), {}

    async def store(self, name: str) -> Store:
        """Open a store by its URL or with a block."""
        block = await _load(name, VideoStore)
        return block.open() if block else await super().store(name)

    async def ledger(self, name: str | None) -> LedgerSource:
        """Find a ledger by its file or with a block."""
        block = await _load(name, VideoLedger)
        return block.source(name) if block else await super().ledger(name)


async def load_credentials(name: str) -> ProviderCredentials | None:
    """Load a saved block of credentials as it is now; None for a block of another package.

    Raises:
        InvalidInput: There is no such block.
    """
    block = await _load_any(name)
    return block if isinstance(block, ProviderCredentials) else None


async def _load(name: str | None, kind: type[BlockT]) -> BlockT | None:
    slug = kind.get_block_type_slug()
    if not name or not name.startswith(f"{slug}/"):
        return None
    block = await _load_any(name)
    assert isinstance(block, kind)
    return block


async def _load_any(name: str) -> Any:
    try:
        return await Block.aload(name)
    except ValueError as error:
        raise InvalidInput(
            f"there is no block {name!r}: save it in Prefect first (prefect block ls shows those that there are)"
        ) from error
