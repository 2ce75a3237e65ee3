"""A generation as its provider tells it: statuses, results, costs."""

from __future__ import annotations

import logging
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

logger = logging.getLogger(__name__)


class Status(StrEnum):
    """Status of a generation, whatever its provider calls it."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    LOST = "lost"

    @property
    def ended(self) -> bool:
        """Whether the status can no longer change."""
        return self not in _RUNNING


_RUNNING: Final = frozenset({Status.QUEUED, Status.PROCESSING})


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VideoResult(_Told):
    """Where a finished video can be fetched, for as long as the link lives.

    Attributes:
        video_url: The link; a bearer secret while it lives, so it is never logged.
        thumbnail_url: A still picture, where the provider offers one.
        duration_seconds: Length of the video.
        width: Pixels.
        height: Pixels.
        file_size: Bytes, where the provider says.
        expires_at: When the link dies, where the provider says.
    """

    video_url: str = Field(repr=False)
    thumbnail_url: str | None = Field(default=None, repr=False)
    duration_seconds: float | None = None
    width: int | None = None
    height: int | None = None
    file_size: int | None = Field(default=None, ge=0)
    expires_at: AwareDatetime | None = None


_LONGEST_TEXT: Final = 2000

_ShortText = Annotated[str, AfterValidator(lambda text: text[:_LONGEST_TEXT])]


class ProviderFault(_Told):
    """Why a generation failed, in the provider's words.

    Attributes:
        code: The provider's word for it.
        type: Its word for the kind of error, where it has one besides.
        message: What it says, cut where it is long.
        of_request: Whether the request itself was wrong, so that the same one would fail again. That it showed only
            after it was accepted may be billed.
    """

    code: _ShortText
    type: _ShortText | None = None
    message: _ShortText
    of_request: bool = False


MOST_USD: Final = Decimal(10) ** 12
"""As much as the ledger can keep; what is beyond it is as little believed as this."""


def _plausible(told: Any) -> Decimal | None:
    if told is None:
        return None
    try:
        cost = Decimal(str(told))
    except InvalidOperation:
        cost = Decimal("NaN")
    # What was reserved counts instead. How much of the rest is believed, the ledger decides, which knows the estimate.
    if not cost.is_finite() or cost < 0:
        logger.warning("a provider says that a generation cost %s USD: taken as not told", told)
        return None
    return min(cost, MOST_USD)


Cost = Annotated[Decimal | None, BeforeValidator(_plausible)]
"""What a provider says it charged, in USD; None when it does not say, or says what is no amount."""


class Generation(_Told):
    """One paid remote job, as seen at one moment.

    Attributes:
        id: The provider's id.
        provider: The provider's name.
        status: Its status; an unknown one counts as processing.
        created_at: When the provider accepted it.
        estimated_completion_at: The provider's hint, if it gave one.
        progress: 0 to 1, where the provider says.
        prompt: The prompt, where the provider echoes it.
        parameters: Duration, resolution and such, where the provider echoes them.
        metadata: What was sent along, where the provider echoes it.
        result: The video, once completed.
        cost_usd: What the provider says it charged; None while unknown.
        fault: Why it failed.
        retry_after: Seconds after which the provider asks to be polled again.
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


class WebhookEvent(_Told):
    """A verified hint from a provider that a generation has changed; re-read it before acting."""

    event_id: str
    event_type: str
    generation_id: str
    sent_at: datetime
