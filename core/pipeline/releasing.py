"""Releasing: what becomes of a row when whoever carried it gives it up."""

from __future__ import annotations

import contextlib

from prefect_video.errors import IllegalTransition, LedgerError, VideoError
from prefect_video.ledger import State
from prefect_video.session.session import Studio


async def give_up(studio: Studio, entry_id: str, error: BaseException | None) -> None:
    """Lets go of a row that is ours; where a failure ends the work on one that was never sent, it is released.

    A run that is interrupted, or cannot use the ledger, leaves the row where it stands, to be carried on from there.
    """
    try:
        if isinstance(error, Exception) and not isinstance(error, LedgerError):
            await _release_unsent(studio, entry_id, error)
    finally:
        await studio.ledger.let_go([entry_id])


async def _release_unsent(studio: Studio, entry_id: str, error: Exception) -> None:
    entry = await studio.ledger.get(entry_id)
    if entry.state is not State.RESERVED:
        return
    # Whoever takes us for dead at this moment sends it instead.
    with contextlib.suppress(IllegalTransition):
        entry = await studio.ledger.release(entry_id, error if isinstance(error, VideoError) else repr(error))
        studio.tell("ended", entry, str(error))
