"""The words that providers have for where a generation stands, and what each means: one table for all dialects.

A relay may pass on any of its upstreams' words, so every dialect knows them all. Beside a word that is not known the
rest of the answer decides.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from prefect_video.generations import ProviderFault, Status
from prefect_video.providers.moderation import is_moderation

logger = logging.getLogger(__name__)

_WORDS: Final[Mapping[Status, str]] = {
    Status.QUEUED: (
        "queued queue queueing queuing in_queue waiting wait pending in_pending not_started starting created submitted"
        " accepted received scheduled throttled preparing initializing initialized"
    ),
    Status.PROCESSING: (
        "processing process in_progress progress in_process running run started active working generating rendering"
        " encoding uploading preprocessing postprocessing finalizing executing busy dreaming ongoing doing"
    ),
    Status.COMPLETED: "completed complete succeeded succeed success successful finished finish done ready ok fulfilled",
    Status.FAILED: (
        "failed fail failure failing error errored exception crashed rejected refused denied invalid timeout timed_out"
        " incomplete budget_exceeded requires_action requires_continuation nsfw moderated blocked flagged"
        " content_filtered moderation_blocked content_moderated banned failed_with_error"
    ),
    Status.CANCELLED: "cancelled canceled cancel aborted abort stopped terminated revoked deleted",
    Status.EXPIRED: "expired",
}
STATUSES: Final[Mapping[str, Status]] = MappingProxyType(
    {word: status for status, words in _WORDS.items() for word in words.split()}
)
"""What a word means, in small letters with underscores."""

_BY_POLICY: Final = frozenset({"nsfw", "moderated", "flagged", "banned", "content_filtered", "content_moderated"})
"""Words for a failure that tell its reason."""

_BEFORE: Final = re.compile(r"^(?:(?:task|job|video|generation|prediction|request|status|state)_)+(?=.)")
_DONE: Final = 1.0
_MOST_WARNINGS: Final = 1000
_warned: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Evidence:
    """What else an answer tells of where a generation stands.

    Attributes:
        has_link: Whether it names a video.
        progress: 0 to 1, where it says.
        has_error: Whether it names an error.
    """

    has_link: bool = False
    progress: float | None = None
    has_error: bool = False

    @property
    def status(self) -> Status | None:
        """The end that the evidence proves; None where it proves none."""
        if self.has_error:
            return Status.FAILED
        if self.has_link and self.progress is not None and self.progress >= _DONE:
            return Status.COMPLETED
        return None


def status_of(
    word: str,
    own: Mapping[str, Status] = MappingProxyType({}),
    *,
    provider: str,
    generation_id: str,
    evidence: Evidence | None = None,
) -> Status:
    """The status that a provider's word stands for.

    One that is not known is decided by the evidence beside it, else counts as processing; of that a warning is logged,
    once for each provider and word.

    Args:
        word: In any case and spelling.
        own: Words of this dialect alone, or ones that mean something else there; in small letters with underscores.
        provider: For the warning about an unknown word.
        generation_id: Likewise.
        evidence: What else the answer tells.
    """
    spelled = _spelled(word)
    status = own.get(spelled) or STATUSES.get(spelled) or STATUSES.get(_BEFORE.sub("", spelled))
    if status is None and is_moderation(word):
        status = Status.FAILED
    if status is not None:
        return status
    status = (evidence.status if evidence else None) or Status.PROCESSING
    _warn(word, status, provider, generation_id)
    return status


def fault_of(word: str, told: ProviderFault | None) -> ProviderFault | None:
    """Why a generation failed: what the answer tells, and what its status word tells besides, such as `NSFW`."""
    if _BEFORE.sub("", _spelled(word)) not in _BY_POLICY and not is_moderation(word):
        return told
    if told is None:
        return ProviderFault(code="moderation", type=word, message=f"its status is {word[:200]!r}")
    return told.model_copy(update={"type": "moderation"})


def _spelled(word: str) -> str:
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word.strip()[:200])
    return re.sub(r"[\W_]+", "_", parted.casefold()).strip("_")


def _warn(word: str, status: Status, provider: str, generation_id: str) -> None:
    if (provider, word) in _warned:
        return
    if len(_warned) < _MOST_WARNINGS:
        _warned.add((provider, word[:200]))
    logger.warning("%s generation %s: unknown status %r counts as %s", provider, generation_id, word[:200], status)
