"""Generations as their provider reports them: statuses, results, costs."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from prefect_video._clean_text import clean_text

logger = logging.getLogger(__name__)


class Status(StrEnum):
    """Status of a generation, whatever string its provider uses for it."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    LOST = "lost"

    @property
    def ended(self) -> bool:
        """True when the status can no longer change."""
        return self not in _RUNNING


_RUNNING: Final = frozenset({Status.QUEUED, Status.PROCESSING})
_PROGRESS: Final = frozenset(
    {"queued", "pending", "started", "start", "starting", "processing", "progress", "in_progress", "output", "logs"}
)
_CLOCK_SECONDS: Final = 2.0
"""A provider's clock within this distance of ours counts as equal: its times are whole seconds."""


class _Record(BaseModel):
    """Base of records that are immutable and complete."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class VideoResult(_Record):
    """Result of a completed generation: the link to its video, and what the provider reports of it.

    Attributes:
        video_url: The link; a bearer secret until it expires, so that it is never logged.
        thumbnail_url: Link to a still picture, where the provider has one.
        duration_seconds: Length of the video.
        width: Width in pixels.
        height: Height in pixels.
        file_size: Size in bytes, where the provider reports it.
        expires_at: Time when the link expires, where the provider reports it.
    """

    video_url: str = Field(repr=False)
    thumbnail_url: str | None = Field(default=None, repr=False)
    duration_seconds: float | None = None
    width: int | None = None
    height: int | None = None
    file_size: int | None = Field(default=None, ge=0)
    expires_at: AwareDatetime | None = None


_MAX_TEXT_LENGTH: Final = 2000

_ShortText = Annotated[str, AfterValidator(lambda text: clean_text(text[:_MAX_TEXT_LENGTH]))]


class ProviderFault(_Record):
    """Reason of a failed generation, as the provider reports it.

    Attributes:
        code: The provider's error code.
        type: The provider's type of error, where it has one besides.
        message: The provider's message, cut where it is long.
        of_request: Whether the request itself was wrong, so that the same one would fail again. As that showed only
            after it was accepted, it may be billed.
    """

    code: _ShortText
    type: _ShortText | None = None
    message: _ShortText
    of_request: bool = False


MOST_USD: Final = Decimal(10) ** 12
"""Largest amount that the ledger can store; higher ones are capped, as they are no more credible than this one."""


def _parse_cost(reported: Any) -> Decimal | None:
    """Parse a reported cost; None for no amount, so that the reserved one counts instead.

    A plausible amount is checked by the ledger, which knows the estimate.
    """
    if reported is None:
        return None
    try:
        cost = Decimal(str(reported))
    except InvalidOperation:
        cost = Decimal("NaN")
    if not cost.is_finite() or cost < 0:
        logger.warning("a provider reports %s USD as the cost of a generation: ignored, as it is no amount", reported)
        return None
    return min(cost, MOST_USD)


Cost = Annotated[Decimal | None, BeforeValidator(_parse_cost)]
"""Cost in USD that a provider reports; None when it reports none, or no amount."""


class Generation(_Record):
    """One paid run at a provider, as it was at the time of a response.

    Attributes:
        id: The provider's id.
        provider: Name of the provider.
        status: Its status; an unknown one counts as processing.
        model: The provider's name of the model, where it reports it.
        created_at: Time when the provider accepted it.
        estimated_completion_at: The provider's estimate of its end, if it gave one.
        progress: 0 to 1, where the provider reports it.
        prompt: The prompt, where the provider echoes it.
        parameters: Duration, resolution and other parameters, where the provider echoes them.
        metadata: Labels that were sent with the shot, where the provider echoes them.
        result: The video, once completed.
        cost_usd: Cost that the provider reports; None while unknown.
        fault: Reason of its failure.
        retry_after: Delay in seconds that the provider requests before the next poll.
        seconds_taken: Seconds from its acceptance to its end, by the provider's times, or its run time where there are
            no others; the poller corrects it by what it has seen itself.
        remixed_from: Id of the generation that it is a remix of, where the provider reports it.
    """

    id: str
    provider: str
    status: Status
    model: str | None = None
    created_at: AwareDatetime | None = None
    estimated_completion_at: AwareDatetime | None = None
    progress: float | None = None
    prompt: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, str] = Field(default_factory=dict)
    result: VideoResult | None = None
    cost_usd: Cost = None
    fault: ProviderFault | None = None
    retry_after: float | None = None
    seconds_taken: float | None = None
    remixed_from: str | None = None


def find_hinted_seconds(generation: Generation, submitted_at: datetime) -> float | None:
    """Return the provider's estimate of a generation's end in seconds since the submit; None where it gave none.

    The estimate and the time of creation may be by two clocks, and neither by ours. Of the spans to the estimate that
    are possible the shorter one counts: one that is too short costs a few polls, one that is too long the punctuality.

    Args:
        generation: The provider's answer to the submit.
        submitted_at: When it was accepted, by this machine's clock.
    """
    hint, created = generation.estimated_completion_at, generation.created_at
    if hint is None:
        return None
    starts = [submitted_at]
    if created is not None and abs((submitted_at - created).total_seconds()) > _CLOCK_SECONDS:
        starts.append(created)
    spans = [(hint - start).total_seconds() for start in starts]
    return min((span for span in spans if span > 0), default=0.0)


@dataclass(frozen=True)
class RecordedGeneration:
    """Generation that the ledger has recorded for a job.

    Attributes:
        recorded_at: Time when it was recorded.
        prompt: The prompt of its job.
        in_progress: True while the provider works on it, False once it is known to have ended; None in between, as
            where its job is held.
    """

    recorded_at: datetime
    prompt: str | None = None
    in_progress: bool | None = None


class WebhookEvent(_Record):
    """Verified webhook: a hint that a generation has changed, which must be read again before acting on it.

    Attributes:
        event_id: Id of the event; the same for every repetition of its delivery.
        event_type: The provider's type of event.
        generation_id: The provider's id of the generation.
        sent_at: Time when the delivery was signed.
    """

    event_id: str
    event_type: str
    generation_id: str
    sent_at: datetime


def is_progress_event(event_type: str) -> bool:
    """Check if an event's type reports progress only, so that nothing need be read or written for it."""
    return re.split(r"[.:/]", event_type.casefold())[-1] in _PROGRESS
