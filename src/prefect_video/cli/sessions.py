"""Sessions and ledgers opened by name; Prefect is started only where a name stands for a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

from prefect_video.cli.prefect_startup import ensure_api
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Job, Ledger, command_line
from prefect_video.providers import Provider
from prefect_video.session import STORE_BLOCK, NameResolver, Session, SessionRef, names_ledger_block, open_session
from prefect_video.session import open_ledger as open_named_ledger
from prefect_video.storage import Store, open_store

_T = TypeVar("_T")

SHORTEST_ID: Final = 6
"""Characters of an id that may stand for the whole: fewer are likely to fit more than one job."""


def run_async(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's coroutine to its end.

    The main task keeps no result: asyncio, as it sets the handler of SIGINT back, writes out the task with its result
    twice, which takes longer for a large report than the report took.
    """
    results: list[_T] = []

    async def run() -> None:
        results.append(await coroutine)

    asyncio.run(run())
    (result,) = results
    return result


@asynccontextmanager
async def use_session(ref: SessionRef) -> AsyncIterator[Session]:
    """Open the session of a reference for as long as the context lasts.

    Raises:
        InvalidInput: A name is not known, or a variable or block is missing.
        LedgerError: The ledger cannot be used.
    """
    if not ref.uses_blocks:
        async with await open_session(ref) as session:
            yield session
        return
    # Blocks are read from Prefect's API; its start-up may block for half a minute.
    await asyncio.to_thread(ensure_api)
    from prefect_video.tasks import use_session as use_session_with_blocks

    async with use_session_with_blocks(ref) as session:
        yield session


@asynccontextmanager
async def use_sessions(refs: Sequence[SessionRef]) -> AsyncIterator[list[Session]]:
    """Open the sessions of several references, in their order, as `use_session` does."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(use_session(ref)) for ref in refs]


@asynccontextmanager
async def open_ledger(name: str | None) -> AsyncIterator[Ledger]:
    """Open a ledger by the name that `options.ledger_name` returns.

    Raises:
        InvalidInput: There is no such block.
        LedgerError: The ledger cannot be used.
    """
    if not names_ledger_block(name):
        async with await open_named_ledger(name) as ledger:
            yield ledger
        return
    await asyncio.to_thread(ensure_api)
    from prefect_video.tasks import open_ledger as open_block

    async with open_block(name) as ledger:
        yield ledger


@asynccontextmanager
async def use_store(name: str) -> AsyncIterator[Store]:
    """Open a store by its address or the name of a saved block, for as long as the context lasts.

    Raises:
        InvalidInput: The address is not valid, or there is no such block.
    """
    if name.startswith(f"{STORE_BLOCK}/"):
        await asyncio.to_thread(ensure_api)
        from prefect_video.tasks import BlockResolver

        store = await BlockResolver().store(name)
    else:
        store = open_store(name)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def use_provider(name: str) -> AsyncIterator[Provider]:
    """Open a provider by its name or with a saved block, for as long as the context lasts.

    Raises:
        InvalidInput: The name is not known, there is no such block, or a variable is missing.
    """
    resolver = NameResolver()
    if "/" in name:
        await asyncio.to_thread(ensure_api)
        from prefect_video.tasks import BlockResolver

        resolver = BlockResolver()
    provider, _ = await resolver.provider(name)
    try:
        yield provider
    finally:
        await provider.aclose()


async def find_job(ledger: Ledger, text: str) -> Job:
    """Find a job by its id, by the first characters of it, or by the provider's id of its generation.

    Raises:
        InvalidInput: No job matches, or more than one.
    """
    if found := await ledger.jobs.get_many([text]):
        return found[0]
    jobs = await ledger.jobs.find(limit=None)
    matches = [job for job in jobs if text in (job.generation_id, job.id)]
    if not matches and len(text) >= SHORTEST_ID:
        matches = [job for job in jobs if job.id.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InvalidInput(f"{text!r} is the beginning of {len(matches)} ids; give more of it")
    listing = command_line("jobs", ledger=ledger.command_option)
    raise InvalidInput(f"there is no job {text!r} in the ledger {ledger.url_label}; see: {listing}")
