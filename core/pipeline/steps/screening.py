"""Screening: the last look at a prompt before it costs money."""

from __future__ import annotations

from prefect_video.errors import PromptScreened
from prefect_video.session.session import Studio


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
