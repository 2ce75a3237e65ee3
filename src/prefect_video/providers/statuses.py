"""Status strings of any provider, mapped to the statuses of this package, in any case and spelling.

A string that is not known is decided by the evidence in the same response, else it counts as processing: a paid
generation must never be given up over a word.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel

from prefect_video.generations import ProviderFault, Status

logger = logging.getLogger(__name__)

_POLICY: Final = (
    "nsfw nsfw_detected nsfw_content nsfw_content_detected moderated request_moderated prompt_moderated"
    " input_moderated output_moderated content_moderated model_moderated moderation_blocked moderation_failed"
    " moderation_rejected moderation_refused moderation_denied moderation_violation blocked_by_moderation"
    " rejected_by_moderation failed_moderation flagged content_flagged prompt_flagged banned content_filtered"
    " filtered_content content_blocked content_rejected prompt_blocked prompt_rejected output_blocked"
    " blocked_by_policy blocked_by_safety safety_blocked safety_rejected safety_violation content_violation"
    " content_policy_violation content_policy_violation_error policy_violation prohibited_content sentinel_block"
)
_POLICY_STRINGS: Final = frozenset(_POLICY.split())
"""Status strings of a generation that a content policy stopped: whole strings, since a part such as `moderation` is
also in strings of stages and of passed checks (`awaiting_moderation`, `moderation_passed`, `not_nsfw`)."""

_STRINGS: Final[Mapping[Status, str]] = {
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
        " incomplete budget_exceeded requires_action requires_continuation blocked failed_with_error"
    ),
    Status.CANCELLED: "cancelled canceled cancel aborted abort stopped terminated revoked deleted",
    Status.EXPIRED: "expired",
}
STATUSES: Final[Mapping[str, Status]] = MappingProxyType(
    {string: status for status, strings in _STRINGS.items() for string in strings.split()}
    | dict.fromkeys(_POLICY_STRINGS, Status.FAILED)
)
"""The status of each known string, in small letters with underscores."""

_PREFIX: Final = re.compile(r"^(?:(?:task|job|video|generation|prediction|request|status|state)_)+(?=.)")
"""Prefixes of enumerations, such as `TASK_STATUS_` in `TASK_STATUS_SUCCEED`."""
_DONE: Final = 1.0
_LONGEST_STRING: Final = 200
_NO_ERROR: Final = frozenset(
    {"", "0", "200", "ok", "none", "null", "false", "success", "no error", "no_error", "[]", "{}"}
)
"""Values with which servers say that there is no error."""
_MOST_WARNINGS: Final = 1000
"""Bound on the warnings that are remembered: a server that invents status strings must not fill the memory."""
_warned: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Evidence:
    """Fields of a response, besides the status string, that show where a generation stands.

    Attributes:
        has_link: Whether the response has a link to a video.
        progress: 0 to 1, where the response reports it.
        has_error: Whether the response has an error.
    """

    has_link: bool = False
    progress: float | None = None
    has_error: bool = False

    @property
    def status(self) -> Status | None:
        """The final status that the evidence proves; None where it proves none."""
        if self.has_error:
            return Status.FAILED
        # A link alone is no proof: some servers give the link that the video will have before there is one.
        if self.has_link and self.progress is not None and self.progress >= _DONE:
            return Status.COMPLETED
        return None


def parse_status(
    string: str,
    dialect: Mapping[str, Status] = MappingProxyType({}),
    *,
    provider: str,
    generation_id: str,
    evidence: Evidence | None = None,
) -> Status:
    """Return the status that a provider's status string stands for.

    A string that is not known, or one of a content policy beside a finished video, is decided by the evidence, else
    counts as processing; a warning about it is logged once for each provider and string.

    Args:
        string: The status string, in any case and spelling.
        dialect: Strings of this dialect alone, or with another meaning in it; in small letters with underscores.
        provider: Name of the provider, for the warning.
        generation_id: Id of the generation, for the warning.
        evidence: Other fields of the response.
    """
    spelled = _to_snake_case(string)
    status = dialect.get(spelled) or STATUSES.get(spelled) or STATUSES.get(_PREFIX.sub("", spelled))
    proven = evidence.status if evidence else None
    # A finished video is paid: a policy's verdict in one string must not throw it away.
    if status is not None and not (_is_policy_string(string) and proven is Status.COMPLETED):
        return status
    status = proven or Status.PROCESSING
    _warn_once(string, status, provider, generation_id)
    return status


def build_fault(string: str, reported: ProviderFault | None, status: Status = Status.FAILED) -> ProviderFault | None:
    """Return why a generation failed: the reported fault, or the reason in a status string such as `NSFW`.

    Args:
        string: The status string.
        reported: The fault that the response reports, if any.
        status: The status of the generation; one that has not failed has no fault but the reported one.
    """
    if status is not Status.FAILED or not _is_policy_string(string):
        return reported
    if reported is None:
        return ProviderFault(code="moderation", type=string, message=f"its status is {string[:_LONGEST_STRING]!r}")
    return reported.model_copy(update={"type": "moderation"})


def reports_error(error: Any) -> bool:
    """Return whether the field `error` of a response reports one; not where it says itself that there is none.

    Args:
        error: The field, decoded or parsed into a model: servers send `null`, `{}` and `{"code": 0, "message": ""}`.
    """
    fields = error.model_dump() if isinstance(error, BaseModel) else error
    values = fields.values() if isinstance(fields, Mapping) else (fields,)
    return any(str(value).strip().casefold() not in _NO_ERROR for value in values)


def _is_policy_string(string: str) -> bool:
    """Return whether a status string as a whole means that a content policy stopped the generation."""
    spelled = _to_snake_case(string)
    return spelled in _POLICY_STRINGS or _PREFIX.sub("", spelled) in _POLICY_STRINGS


def _to_snake_case(string: str) -> str:
    """Return a status string in small letters with underscores: `InProgress` is `in_progress`."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", string.strip()[:_LONGEST_STRING])
    return re.sub(r"[\W_]+", "_", parted.casefold()).strip("_")


def _warn_once(string: str, status: Status, provider: str, generation_id: str) -> None:
    """Log an unknown status string, once for each provider and string as long as there is room to remember them."""
    if (provider, string) in _warned:
        return
    shown = string[:_LONGEST_STRING]
    if len(_warned) < _MOST_WARNINGS:
        _warned.add((provider, shown))
    logger.warning("%s generation %s: unknown status %r counts as %s", provider, generation_id, shown, status)
