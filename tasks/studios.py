"""Studios with blocks: every reference of a flow or task, opened once a process and shared by all that use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from prefect.blocks.core import Block

from prefect_video.blocks import VideoLedger, VideoStore
from prefect_video.blocks.accounts import ProviderCredentials
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Budget, Entry, Ledger
from prefect_video.opening import StudioRef, observing, open_named, prepared, tell_observers
from prefect_video.providers.base import Provider
from prefect_video.providers.registry import open_provider
from prefect_video.storage import Store, open_store
from prefect_video.studio import Moment, Studio, StudioSettings
from prefect_video.tasks.announcing import announce_anomaly, announce_breaker
from prefect_video.tasks.default_ledger import warn_about_default_ledger
from prefect_video.unbroken import to_its_end

__all__ = ["StudioRef", "observing", "open_ledger", "open_studio", "resolve_store"]

BlockT = TypeVar("BlockT", bound=Block)


@asynccontextmanager
async def open_studio(ref: StudioRef) -> AsyncIterator[Studio]:
    """The studio of a reference, shared by everything that uses it in this event loop; the last one closes it.

    Raises:
        InvalidInput: A name is not known, or a variable or block is missing.
        LedgerError: The ledger cannot be used.
    """
    key = (id(asyncio.get_running_loop()), ref)
    shared = _open.get(key)
    if shared is None:
        shared = _open[key] = _Shared(asyncio.ensure_future(_open_anew(ref)))
    shared.users += 1
    try:
        yield await asyncio.shield(shared.opening)
    finally:
        shared.users -= 1
        if not shared.users:
            _open.pop(key, None)
            await to_its_end(_close(shared))


@asynccontextmanager
async def open_ledger(name: str | None) -> AsyncIterator[Ledger]:
    """The ledger alone, by the name that a `StudioRef` would hold.

    Raises:
        InvalidInput: There is no such block.
        LedgerError: The ledger cannot be used.
    """
    settings = StudioSettings.from_environment()
    ledger, _ = await _resolve_ledger(name, await _load(name, VideoLedger), settings)
    async with ledger:
        yield ledger


@dataclass
class _Shared:
    opening: asyncio.Future[Studio]
    users: int = 0


_open: dict[tuple[int, StudioRef], _Shared] = {}


async def _open_anew(ref: StudioRef) -> Studio:
    warn_about_default_ledger(ref)
    studio = await (_open_with_blocks(ref) if ref.names_blocks else open_named(ref))
    studio.observer = _observe
    studio.breaker.on_change = announce_breaker
    return studio


def _observe(moment: Moment, entry: Entry) -> None:
    tell_observers(moment, entry)
    announce_anomaly(moment, entry)


async def _open_with_blocks(ref: StudioRef) -> Studio:
    provider, from_credentials = await _resolve_provider(ref.provider)
    try:
        ledger_block = await _load(ref.ledger, VideoLedger)
        settings = StudioSettings.from_environment(
            **{
                **from_credentials,
                **_given(ledger_block.studio_settings() if ledger_block else {}),
                **_given({"max_in_flight": ref.max_in_flight, "on_open": ref.on_open}),
            }
        )
        await prepared(provider)
        store = await resolve_store(ref.store)
        ledger, budgets = await _resolve_ledger(ref.ledger, ledger_block, settings)
    except BaseException:
        await provider.aclose()
        raise
    return Studio(
        provider=provider,
        ledger=ledger,
        store=store,
        store_name=ref.store,
        credentials=ref.provider,
        budgets=budgets,
        settings=settings,
    )


async def _close(shared: _Shared) -> None:
    if not shared.opening.done():
        shared.opening.cancel()
        await asyncio.gather(shared.opening, return_exceptions=True)
    elif not shared.opening.cancelled() and shared.opening.exception() is None:
        await shared.opening.result().aclose()


async def _resolve_provider(name: str) -> tuple[Provider, dict[str, Any]]:
    if "/" not in name:
        return await asyncio.to_thread(open_provider, name), {}
    block = await _load_any(name)
    if not hasattr(block, "get_client"):
        raise InvalidInput(f"provider {name!r}: this block holds no provider's credentials")
    settings = block.studio_settings() if isinstance(block, ProviderCredentials) else {}
    return block.get_client(), _given(settings)


async def resolve_store(name: str) -> Store:
    """The store of a reference's name; no request is made to it yet.

    Raises:
        InvalidInput: The name is not understood, or there is no such block.
    """
    block = await _load(name, VideoStore)
    return block.open() if block else open_store(name)


async def _resolve_ledger(
    name: str | None, block: VideoLedger | None, settings: StudioSettings
) -> tuple[Ledger, tuple[Budget, ...]]:
    if block:
        return await block.aopen(lease_seconds=settings.lease_seconds), block.budgets()
    return await Ledger.open(name, lease_seconds=settings.lease_seconds), ()


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


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
