"""Opening studios and ledgers by name; Prefect is started only where a name stands for a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from prefect_video.cli.prefect_startup import connect
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Entry, Ledger, command_line
from prefect_video.session.refs import StudioRef, names_ledger_block, open_session
from prefect_video.session.refs import open_ledger as open_named_ledger
from prefect_video.session.session import Studio

_T = TypeVar("_T")

SHORTEST_ID = 6


def run_async(work: Coroutine[Any, Any, _T]) -> _T:
    """Runs a command's coroutine."""
    return asyncio.run(work)


@asynccontextmanager
async def open_studio(ref: StudioRef) -> AsyncIterator[Studio]:
    """The studio of a reference.

    Raises:
        InvalidInput: A name is not known, or a variable or block is missing.
        LedgerError: The ledger cannot be used.
    """
    if not ref.names_blocks:
        async with await open_session(ref) as studio:
            yield studio
        return
    await asyncio.to_thread(connect)
    from prefect_video.tasks import open_studio as open_with_blocks

    async with open_with_blocks(ref) as studio:
        yield studio


@asynccontextmanager
async def open_studios(refs: Sequence[StudioRef]) -> AsyncIterator[list[Studio]]:
    """The studios of several references, in their order; see `open_studio`."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_studio(ref)) for ref in refs]


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
    await asyncio.to_thread(connect)
    from prefect_video.tasks.sessions import open_ledger as open_block

    async with open_block(name) as ledger:
        yield ledger


async def find_entry(ledger: Ledger, text: str) -> Entry:
    """A row by its id, by the first characters of it, or by the provider's id of its generation.

    Raises:
        InvalidInput: No row, or more than one, is meant.
    """
    if found := await ledger.get_many([text]):
        return found[0]
    everything = await ledger.entries(limit=None)
    matches = [entry for entry in everything if text in (entry.generation_id, entry.id)]
    if not matches and len(text) >= SHORTEST_ID:
        matches = [entry for entry in everything if entry.id.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InvalidInput(f"{text!r} is the beginning of {len(matches)} ids; give more of it")
    listing = command_line("jobs", ledger=ledger.command_option)
    raise InvalidInput(f"there is no job {text!r} in the ledger {ledger.url_label}; see: {listing}")
