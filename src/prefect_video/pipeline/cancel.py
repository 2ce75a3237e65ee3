"""Cancelling rows of whatever accounts: each is given up at the studio that it was made with."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from prefect_video.errors import GenerationEnded, NotFound, VideoError
from prefect_video.generations import Status
from prefect_video.ledger import UNFINISHED, Entry, State
from prefect_video.pipeline.steps.end import demand_account
from prefect_video.pipeline.steps.poll import record_end
from prefect_video.session.refs import OpenStudio, by_studio
from prefect_video.session.session import SessionEvent, Studio

logger = logging.getLogger(__name__)


class Cancelled(BaseModel):
    """The outcome of cancelling one row.

    Attributes:
        entry: The row as it then stands.
        outcome: In words.
        error: Why nothing was changed.
    """

    model_config = ConfigDict(frozen=True)

    entry: Entry
    outcome: str
    error: str | None = None

    @property
    def goes_on(self) -> bool:
        """True while it is still in progress, and may be billed."""
        return self.entry.state in UNFINISHED


async def cancel_rows(entries: Sequence[Entry], open_studio: OpenStudio) -> list[Cancelled]:
    """Cancels rows and settles what is owed; an account that cannot be reached keeps back none of the others.

    Args:
        entries: The rows; what is over already stays as it is.
        open_studio: How to open the studio of a row; rows with the same credentials and store share one.

    Returns:
        One line for each row.
    """
    cancelled = await asyncio.gather(*(_cancel_group(open_studio, group) for group in by_studio(entries)))
    return [line for lines in cancelled for line in lines]


async def _cancel_group(open_studio: OpenStudio, entries: Sequence[Entry]) -> list[Cancelled]:
    ended: Sequence[Entry | BaseException]
    try:
        async with open_studio(entries[0]) as studio:
            ended = await cancel_each(studio, entries)
    except Exception as error:
        # Whatever is wrong with one account, the generations of the others go on being billed.
        unexpected = None if isinstance(error, VideoError) else error
        logger.error("cannot cancel with %s: %s", entries[0].credentials, error, exc_info=unexpected)
        ended = [error] * len(entries)
    return [_line(before, after) for before, after in zip(entries, ended, strict=True)]


def _line(before: Entry, after: Entry | BaseException) -> Cancelled:
    if isinstance(after, Entry):
        return Cancelled(entry=after, outcome=_outcome(before, after))
    if not isinstance(after, Exception):
        raise after
    return Cancelled(entry=before, outcome="not cancelled", error=str(after) or type(after).__name__)


def _outcome(before: Entry, after: Entry) -> str:
    if before.state not in UNFINISHED:
        return f"was over already: {before.state.value}"
    match after.state:
        case State.RELEASED:
            return "released: it was not sent, nothing is owed"
        case State.CANCELLED:
            return "cancelled at the provider"
        case State.SUBMITTED:
            return "too far to be cancelled: it goes on and is paid; collect stores it"
        case State.COMPLETED:
            return "made and paid already: collect stores it"
        case State.SUBMITTING | State.UNKNOWN:
            return "its submit is not answered: collect finds out first"
    return after.state.value


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
        studio.tell(SessionEvent.ENDED, entry, "cancelled before it was sent")
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
