"""Fresh generations: the provider's last answers, so that the next step need not request them again."""

from __future__ import annotations

from prefect_video.generations import Generation
from prefect_video.ledger import Ledger, ReceivedEvent


class FreshGenerations:
    """A cache of the last answers about generations, of this process and of the webhook receiver on its ledger.

    The download uses each of them up, as it needs the link to the video while that is new.

    Args:
        ledger: The ledger that the receiver, which runs in another process, stores its answers in.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._generations: dict[str, Generation] = {}

    def put(self, generation: Generation) -> None:
        """Keep an answer for the next step in this process."""
        self._generations[generation.id] = generation

    async def leave(self, event: ReceivedEvent, generation: Generation) -> None:
        """Keep an answer for the process that owns the generation's job, which sees the event in the ledger."""
        await self._ledger.events.stash_generation(event, generation)

    def get(self, generation_id: str) -> Generation | None:
        """Return this process's last answer about a generation."""
        return self._generations.get(generation_id)

    async def pop(self, account: str, generation_id: str) -> Generation | None:
        """Return the last answer that has a link to the video, and forget it; None where there is none."""
        generation = self._generations.pop(generation_id, None)
        if generation is None or generation.result is None:
            generation = await self._ledger.events.pop_generation(account, generation_id)
        return generation if generation is not None and generation.result is not None else None

    def discard(self, generation_id: str | None) -> None:
        """Forget an answer that no step of this process is going to use."""
        self._generations.pop(generation_id or "", None)

    def clear(self) -> None:
        """Forget all answers of this process."""
        self._generations.clear()
