"""Cancelling: giving up rows that are not finished, at the provider too where it still can."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from prefect_video.errors import GenerationEnded, NotFound
from prefect_video.generations import Status
from prefect_video.ledger import Entry, State
from prefect_video.pipeline.steps.accounts import demand_account
from prefect_video.pipeline.steps.poll import record_end
from prefect_video.session.session import Studio


async def cancel(studio: Studio, entry_id: str) -> Entry:
    """Cancels what is not finished and settles what is owed; idempotent.

    A reservation is released. A submitted generation is cancelled where the provider still can; one that is too far
    goes on and is stored by `collect`, as it is paid. A row whose submit is not answered yet is left to `collect`.

    Returns:
        The row as it then stands.

    Raises:
        NeedsAttention: It is another account's; nothing is changed.
        ProviderError: The provider gives no answer; nothing is changed.
    """
    entry = await studio.ledger.get(entry_id)
    if entry.state is State.RESERVED:
        entry = await studio.ledger.release(entry.id, "cancelled before it was sent")
        studio.tell("ended", entry, "cancelled before it was sent")
        return entry
    if entry.state is not State.SUBMITTED or entry.generation_id is None:
        return entry
    demand_account(studio, entry)
    try:
        generation = await studio.provider.cancel(entry.generation_id)
    except NotFound:
        return entry
    if generation.status.ended and generation.status is not Status.LOST:
        # That it ended without a video is what was wanted; the row is settled.
        with contextlib.suppress(GenerationEnded):
            await record_end(studio, entry, generation)
    return await studio.ledger.get(entry.id)


async def cancel_each(studio: Studio, entries: Sequence[Entry]) -> list[Entry | BaseException]:
    """Cancels several rows; what became of each, in their order.

    Reservations go first: the slot that a cancelled generation frees must not be taken by one that is to go too.
    """
    ended: dict[str, Entry | BaseException] = {}
    for reserved in (True, False):
        part = [entry for entry in entries if (entry.state is State.RESERVED) is reserved]
        found = await asyncio.gather(*(cancel(studio, entry.id) for entry in part), return_exceptions=True)
        ended |= {entry.id: one for entry, one in zip(part, found, strict=True)}
    return [ended[entry.id] for entry in entries]
