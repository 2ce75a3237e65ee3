"""Opening sessions and ledgers by name; Prefect is started only where a name stands for a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from prefect_video.cli.prefect_startup import ensure_api
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Job, Ledger, command_line
from prefect_video.session import Session, SessionRef, names_ledger_block, open_session
from prefect_video.session import open_ledger as open_named_ledger

_T = TypeVar("_T")

SHORTEST_ID = 6


def run_async(work: Coroutine[Any, Any, _T]) -> _T:
    """Runs a command's coroutine."""
    return asyncio.run(work)


@asynccontextmanager
async def use_session(ref: SessionRef) -> AsyncIterator[Session]:
    """The session of a reference.

    Raises:
        InvalidInput: A name is not known, or a variable or block is missing.
        LedgerError: The ledger cannot be used.
    """
    if not ref.uses_blocks:
        async with await open_session(ref) as session:
            yield session
        return
    await asyncio.to_thread(ensure_api)
    from prefect_video.tasks import use_session as use_session_with_blocks

    async with use_session_with_blocks(ref) as session:
        yield session


@asynccontextmanager
async def use_sessions(refs: Sequence[SessionRef]) -> AsyncIterator[list[Session]]:
    """The sessions of several references, in their order; see `use_session`."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(use_session(ref)) for ref in refs]


@asynccontextmanager
async def open_ledger(name: str | None) -> AsyncIterator[Ledger]:
    """A ledger by the name that `options.ledger_name` gives.

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


async def find_job(ledger: Ledger, text: str) -> Job:
    """A row by its id, by the first characters of it, or by the provider's id of its generation.

    Raises:
        InvalidInput: No row, or more than one, is meant.
    """
    if found := await ledger.jobs.get_many([text]):
        return found[0]
    everything = await ledger.jobs.find(limit=None)
    matches = [job for job in everything if text in (job.generation_id, job.id)]
    if not matches and len(text) >= SHORTEST_ID:
        matches = [job for job in everything if job.id.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InvalidInput(f"{text!r} is the beginning of {len(matches)} ids; give more of it")
    listing = command_line("jobs", ledger=ledger.command_option)
    raise InvalidInput(f"there is no job {text!r} in the ledger {ledger.url_label}; see: {listing}")
