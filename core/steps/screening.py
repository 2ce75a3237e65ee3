"""Screening: the last look at a prompt before it costs money."""

from __future__ import annotations

from prefect_video.errors import PolicyRefused, PromptScreened
from prefect_video.ledger import Entry
from prefect_video.studio import Studio


async def screen_prompt(studio: Studio, entry_id: str) -> None:
    """Lets a reserved row pass, or releases it and keeps it for review; allow-listed prompts always pass.

    Raises:
        PromptScreened: The message names the shot and the reason.
    """
    entry = await studio.ledger.get(entry_id)
    if await studio.ledger.allowed([entry.fingerprint]):
        return
    try:
        await studio.screen.check(entry.shot)
    except PromptScreened as error:
        entry = await studio.ledger.release(entry.id, error)
        studio.tell("ended", entry, str(error))
        raise


async def refuse_blocked(studio: Studio, entry: Entry) -> None:
    """Releases a reserved row whose prompt the provider's content policy stopped before, and keeps it for review.

    A human who allows the prompt has it sent once more.

    Raises:
        PolicyRefused: The message names the shot, the row that was stopped, and the command that allows it.
    """
    blocked = await studio.ledger.blocked(entry)
    if blocked is None:
        return
    error = PolicyRefused(
        f"shot {entry.shot.id!r}: the content policy of {entry.provider} stopped this prompt before (row {blocked.id}),"
        " so that it is not sent. Change the prompt; see: prefect-video review. To send it once more, and perhaps pay"
        f" for it: prefect-video review --allow {entry.fingerprint}",
        provider=entry.provider,
        generation_id=blocked.generation_id,
    )
    entry = await studio.ledger.release(entry.id, error)
    studio.tell("ended", entry, str(error))
    raise error
