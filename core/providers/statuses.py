"""The words that providers have for where a generation stands, and what each means: one table for all dialects."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from prefect_video.generations import Status

logger = logging.getLogger(__name__)

_WORDS: Final[Mapping[Status, str]] = {
    Status.QUEUED: "queued pending in_queue starting submitted throttled",
    Status.PROCESSING: "processing in_progress running generating postprocessing dreaming",
    Status.COMPLETED: "completed succeeded succeed done",
    Status.FAILED: "failed incomplete budget_exceeded requires_action requires_continuation",
    Status.CANCELLED: "cancelled canceled aborted deleted",
    Status.EXPIRED: "expired",
}
STATUSES: Final[Mapping[str, Status]] = MappingProxyType(
    {word: status for status, words in _WORDS.items() for word in words.split()}
)
"""What a word means, in lower case; a relay may pass on any of its upstreams', so every dialect knows them all."""


def status_of(
    word: str, own: Mapping[str, Status] = MappingProxyType({}), *, provider: str, generation_id: str
) -> Status:
    """The status that a provider's word stands for; one that is not known counts as processing.

    Args:
        word: In any case.
        own: Words of this dialect alone, or ones that mean something else there; in lower case.
        provider: For the warning about an unknown word.
        generation_id: Likewise.
    """
    status = own.get(word.casefold()) or STATUSES.get(word.casefold())
    if status is None:
        logger.warning("%s generation %s: unknown status %r counts as processing", provider, generation_id, word)
        return Status.PROCESSING
    return status
