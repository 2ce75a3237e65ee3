"""Cancelling rows of whatever accounts: each is given up at the studio that it was made with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from prefect_video.errors import VideoError
from prefect_video.ledger import UNFINISHED, Entry, State
from prefect_video.pipeline.cancelling import cancel_each
from prefect_video.session.refs import OpenStudio, by_studio

logger = logging.getLogger(__name__)


class Cancelled(BaseModel):
    """What became of a row that was to be cancelled.

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
        """Whether it is still under way, and may be billed."""
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
