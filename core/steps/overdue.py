"""What becomes of a generation that has not ended by its deadline: left, held for a human, or cancelled."""

from __future__ import annotations

from prefect_video.errors import DeadlinePassed, NeedsAttention, ProviderError
from prefect_video.generations import Generation
from prefect_video.ledger import Entry
from prefect_video.studio import Studio


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
    message = (
        f"shot {entry.shot.id!r}: generation {entry.generation_id} has not ended by its deadline"
        f" ({entry.deadline_at:%Y-%m-%d %H:%M:%S} UTC) and may be billed. It is not bought again by itself. Look at the"
        f" provider's console, then run: prefect-video cancel {entry.id},"
        f" or prefect-video resolve {entry.id} --keep-waiting"
    )
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
