"""What every provider offers, whatever its dialect."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal, Protocol

from prefect_video.downloads import VideoSource
from prefect_video.errors import InvalidResponse
from prefect_video.generations import Generation, Status, WebhookEvent
from prefect_video.shots import AspectRatio, Resolution, Shot

OPTIONAL_FIELDS: Final = (
    "seed",
    "negative_prompt",
    "fps",
    "num_frames",
    "num_inference_steps",
    "guidance_scale",
    "references",
    "size",
)
"""Fields of a shot that not every provider takes."""

Lookup = Literal["key", "likeness", "none"]
"""How a provider can tell whether an unanswered submit was accepted: it echoes our idempotency key, it can be
searched for a generation like the one asked for, or it cannot tell."""


@dataclass(frozen=True)
class Account:
    """What rate limits, quotas and bills apply to: one key at one address of one provider.

    Attributes:
        provider: Name of the provider.
        base_url: Its address, without credentials.
        id: A keyed hash of provider, address and key; safe to store and to log.
    """

    provider: str
    base_url: str
    id: str

    @classmethod
    def from_key(cls, provider: str, base_url: str, api_key: str) -> Account:
        """Names the account of a key without revealing the key."""
        digest = hmac.new(api_key.encode(), f"{provider}\n{base_url}".encode(), hashlib.sha256).hexdigest()
        return cls(provider=provider, base_url=base_url, id=f"{provider}-{digest[:16]}")


@dataclass(frozen=True)
class Capabilities:
    """What a provider, or a plan at a provider, can make.

    Attributes:
        sizes: The longest duration in seconds for each resolution that is offered.
        aspect_ratios: The aspect ratios that are offered.
        durations: The exact durations that are offered; empty for every whole second up to the longest.
        concurrency: How many generations may be unfinished at once; None when not known.
        monthly_videos: How many a month; None when not limited.
        usd_per_second: Price per second of video by the duration from which it holds; empty when unknown.
        can_list: Whether generations can be listed.
        can_cancel: Whether a running generation can be cancelled.
        reconciling: How an unanswered submit is resolved.
        free_outcomes: Ends that are known to cost nothing where the answer names no cost; after any other
            end what was reserved for it counts as spent.
        takes: Optional fields of a shot that are obeyed (see `OPTIONAL_FIELDS`).
        max_references: How many references, where any are taken; None for as many as there are.
        supports_webhook_url: Whether a submit says where its end is to be announced; where that is set up in the
            provider's console, nobody here knows whether it was.
        fetches_webhook_keys: Whether `parse_webhook` may ask the network for the keys it checks with, and blocks then.
        retention: How long after its end a video can be fetched, where that is the same for all.
        seconds_per_video_second: The span of work for one second of video, as a first guess.
        aliases: Names of models that mean another model at this account than they do elsewhere, and which: what is
            stored under such a name belongs to the model.
    """

    sizes: Mapping[Resolution, int]
    aspect_ratios: Collection[AspectRatio]
    durations: Collection[int] = ()
    concurrency: int | None = None
    monthly_videos: int | None = None
    usd_per_second: Mapping[int, Decimal] = field(default_factory=dict)
    can_list: bool = True
    can_cancel: bool = True
    lookup: Lookup = "none"
    free_outcomes: Collection[Status] = ()
    optional_fields: Collection[str] = ()
    max_references: int | None = 1
    supports_webhook_url: bool = True
    fetches_webhook_keys: bool = False
    retention: timedelta | None = None
    seconds_per_video_second: tuple[float, float] = (6.0, 12.0)
    aliases: Mapping[str, str] = field(default_factory=dict)


class Provider(Protocol):
    """A service that generates videos."""

    name: str
    account: Account
    capabilities: Capabilities

    async def load_capabilities(self) -> None:
        """Reads what the provider tells about itself, such as models and live prices, where it does; once is enough.

        Raises:
            ProviderError: It could not be read; what is known without it holds.
        """

    async def check_access(self) -> None:
        """Reads something that costs nothing and wants the key; does nothing where there is no such thing.

        Raises:
            AuthenticationFailed: The key was refused.
            ProviderError: There was no answer, or not one of this provider's.
        """

    def capabilities_for(self, shot: Shot) -> Capabilities:
        """What can be made with the shot's model: `capabilities`, or less."""

    def check(self, shot: Shot) -> None:
        """Refuses a shot that cannot be made here, before anything is spent.

        Raises:
            Unsupported: The message names the field and the nearest value that is offered.
        """

    def estimate(self, shot: Shot) -> Decimal | None:
        """What one generation of the shot should cost in USD; None when the price is not known."""

    async def submit(
        self, shot: Shot, *, idempotency_key: str, project: str, webhook_url: str | None = None
    ) -> Generation:
        """Sends the shot once; a paid request, never repeated in here.

        Raises:
            RequestRejected: Nothing was accepted.
            GenerationFailed: It was accepted and failed at once; the error carries its id.
            SubmitOutcomeUnknown: Nobody knows; see `find_unclaimed`.
        """

    def download_source(self, generation: Generation) -> VideoSource:
        """Where a completed generation's video is fetched; headers only where the link itself wants the key.

        Raises:
            InvalidResponse: The generation has no video.
        """

    async def retrieve(self, generation_id: str) -> Generation:
        """Reads one generation; repeated on errors that cost nothing.

        Raises:
            NotFound: The provider does not know the id (perhaps only for now).
            ProviderUnavailable: Still no answer after the repeats.
        """

    async def cancel(self, generation_id: str) -> Generation:
        """Cancels if the provider still can, and reads the generation as it then stands. Idempotent.

        Raises:
            NotFound: The provider does not know the id.
            ProviderUnavailable: No answer.
        """

    def list(self, *, status: Status | None = None, created_after: datetime | None = None) -> AsyncIterator[Generation]:
        """All generations of the account, newest first, page by page."""

    async def find_unclaimed(
        self, shot: Shot, *, idempotency_key: str, sent_at: datetime, known: Mapping[str, datetime]
    ) -> Generation | None:
        """Finds the generation that an unanswered submit may have started.

        Args:
            shot: What was asked.
            idempotency_key: What was sent along.
            sent_at: When the request left, by this machine's clock; the provider's may show another time.
            known: Generations that belong to other rows of the ledger, and when each was recorded.

        Returns:
            The generation, or None when the provider shows that there is none at this moment. One that echoes the key
            is returned even where it is known.

        Raises:
            HeldForReview: This provider cannot tell, or has one that may be it.
            InvalidResponse: Its list does not hold together.
            ProviderUnavailable: No answer.
        """

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verifies a delivery and reads it.

        Raises:
            InvalidInput: The signature, the time or the body is not right; nothing may be done with it.
        """

    async def aclose(self) -> None:
        """Closes connections."""


def link_source(generation: Generation) -> VideoSource:
    """The link of a completed generation, fetched without any key.

    Raises:
        InvalidResponse: It is completed and has no link.
    """
    if generation.result is None:
        raise InvalidResponse(
            f"{generation.provider}: generation {generation.id} is completed and names no video",
            provider=generation.provider,
            generation_id=generation.id,
        )
    return VideoSource(url=generation.result.video_url)
