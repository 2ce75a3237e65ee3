"""Deadline: leaves, holds or cancels a generation that has not ended in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from prefect_video.errors import (
    DeadlinePassed,
    DownloadError,
    LinkExpired,
    NeedsAttention,
    ProviderError,
    VideoError,
)
from prefect_video.generations import Generation
from prefect_video.ledger import Entry, HoldReason, State, hold_message
from prefect_video.session.session import Studio

LEFT_FOR: Final = timedelta(days=1)
"""How long after its deadline a generation is left to later sweeps; then a human is told of it."""


def is_overdue(entry: Entry) -> bool:
    """Check if a row's generation should have ended by now."""
    return entry.deadline_at is not None and entry.deadline_at <= datetime.now(UTC)


def hold_message_if_stuck(studio: Studio, entry: Entry, error: VideoError) -> str | None:
    """Write why a paid row needs a human, if no later sweep will finish it by itself; None while one may.

    Args:
        studio: The row's session.
        entry: A row that could not be finished now.
        error: Why.
    """
    now = datetime.now(UTC)
    is_late = now > (entry.deadline_at or entry.created_at) + LEFT_FOR
    is_late &= isinstance(error, ProviderError | DownloadError | DeadlinePassed)
    # The link was read anew on the way, and the provider had no other.
    is_dead = isinstance(error, LinkExpired) and entry.expires_at is not None and entry.expires_at < now
    if entry.state is State.SUBMITTED and is_late:
        return _not_ended(studio, entry, "" if isinstance(error, DeadlinePassed) else f" The last look: {error}.")
    if entry.state is State.COMPLETED and (is_late or is_dead):
        return hold_message(
            HoldReason.VIDEO_UNREACHABLE,
            job=entry.id,
            shot=entry.shot.id,
            ledger=studio.ledger.command_option,
            generation=entry.generation_id,
            cause=str(error),
        )
    return None


async def give_up(studio: Studio, entry: Entry, passed: DeadlinePassed) -> Generation:
    """Does with an overdue generation what the studio's settings say.

    Returns:
        How it ended, if cancelling ended it or found it ended.

    Raises:
        DeadlinePassed: It is left running, by rule or because it can no longer be cancelled.
        NeedsAttention: It is held for a human, who was not asked before.
    """
    match studio.settings.on_deadline:
        case "hold":
            await _hold(studio, entry, passed)
        case "cancel" if studio.provider.capabilities.can_cancel:
            return await _cancel(studio, entry, passed)
    raise passed


async def _hold(studio: Studio, entry: Entry, passed: DeadlinePassed) -> None:
    message = _not_ended(studio, entry)
    await studio.ledger.flag(entry.id, message)
    raise NeedsAttention(message) from passed


async def _cancel(studio: Studio, entry: Entry, passed: DeadlinePassed) -> Generation:
    try:
        generation = await studio.provider.cancel(entry.generation_id or "")
    except ProviderError as error:
        raise passed from error
    if not generation.status.ended:
        raise passed
    return generation


def _not_ended(studio: Studio, entry: Entry, cause: str = "") -> str:
    return hold_message(
        HoldReason.PAST_DEADLINE,
        job=entry.id,
        shot=entry.shot.id,
        ledger=studio.ledger.command_option,
        generation=entry.generation_id,
        deadline=f"{entry.deadline_at:%Y-%m-%d %H:%M:%S}",
        cause=cause,
    )
