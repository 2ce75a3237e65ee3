"""Screening: the last look at a prompt before it costs money."""

from __future__ import annotations

from prefect_video.errors import PolicyRefused, PromptScreened
from prefect_video.ledger import Entry
from prefect_video.studio import Studio


async def screen_prompt(studio: Studio, entry_id: str) -> None:
    """Lets a reserved row pass, or releases it and keeps it for review.

    A prompt that a human has allowed passes the local screen, and may be sent once more where the provider's content
    policy has stopped it.

    Raises:
        PromptScreened: The message names the shot and the reason.
        PolicyRefused: The provider's content policy stopped this prompt before; nothing was sent.
    """
    entry = await studio.ledger.get(entry_id)
    try:
        if not await studio.ledger.allowed([entry.fingerprint]):
            await studio.screen.check(entry.shot)
        if blocked := await studio.ledger.blocked(entry):
            raise _blocked_before(entry, blocked)
    except (PromptScreened, PolicyRefused) as error:
        entry = await studio.ledger.release(entry.id, error)
        studio.tell("ended", entry, str(error))
        raise


def _blocked_before(entry: Entry, blocked: Entry) -> PolicyRefused:
    return PolicyRefused(
        f"shot {entry.shot.id!r}: the content policy of {entry.provider} stopped this prompt before (row {blocked.id}),"
        " so that it is not sent. Change the prompt; see: prefect-video review. To send it once more, and perhaps pay"
        f" for it: prefect-video review --allow {entry.fingerprint}",
        provider=entry.provider,
        generation_id=blocked.generation_id,
    )
