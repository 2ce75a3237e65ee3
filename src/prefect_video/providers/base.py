"""Contract of a provider, whatever its dialect: `Provider`, with its account and capabilities."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal, Protocol

from prefect_video.downloads import VideoSource
from prefect_video.errors import InvalidInput, InvalidResponse
from prefect_video.frame_sizes import AspectRatio, Resolution
from prefect_video.generations import Generation, RecordedGeneration, Status, WebhookEvent
from prefect_video.shots import Shot

OPTIONAL_FIELDS: Final = (
    "seed",
    "negative_prompt",
    "fps",
    "num_frames",
    "num_inference_steps",
    "guidance_scale",
    "first_frame",
    "last_frame",
    "references",
    "audio",
    "watermark",
    "options",
    "size",
)
"""Fields of a shot that not every provider supports."""

Lookup = Literal["key", "similarity", "none"]
"""Means to find out whether an unanswered submit was accepted: the provider echoes our idempotency key, its list can be
searched for a generation like the requested one, or there is none."""


ACCOUNT_NAME: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"
"""Pattern of an account's name."""
_DIGEST_CHARS: Final = 16
_ADDRESS_CHARS: Final = 8


@dataclass(frozen=True)
class Account:
    """Account to which rate limits, quotas and bills apply: a customer relationship at one address of one provider.

    An account with a name outlives its keys; one without is as old as its key.

    Attributes:
        provider: Name of the provider.
        base_url: Its address, without credentials: equal names at two addresses are two accounts.
        id: Provider, name and a hash of the address; without a name, a keyed hash of provider, address and key.
        key_fingerprint: Keyed hash of provider, address and the key in use; by default the id, where that is one.
        previous_key_fingerprint: That of the key that is being replaced, and can still be used; None without one.
        name: The name; None for an account that is known by its key.

    All of them are safe to store and to log.
    """

    provider: str
    base_url: str
    id: str
    key_fingerprint: str = ""
    previous_key_fingerprint: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.key_fingerprint:
            object.__setattr__(self, "key_fingerprint", self.id)

    @classmethod
    def from_key(cls, provider: str, base_url: str, api_key: str) -> Account:
        """Create the account of a key without revealing the key."""
        # Keyed by the API key, which only its holders can verify: the hash can be stored in the ledger.
        digest = hmac.new(api_key.encode(), f"{provider}\n{base_url}".encode(), hashlib.sha256).hexdigest()
        fingerprint = digest[:_DIGEST_CHARS]
        return cls(provider=provider, base_url=base_url, id=f"{provider}-{fingerprint}", key_fingerprint=fingerprint)

    def named(self, name: str | None) -> Account:
        """Return the account under a name, which it keeps when its key is replaced; unchanged without one.

        Raises:
            InvalidInput: The name is not usable.
        """
        if not name:
            return self
        if re.match(ACCOUNT_NAME, name) is None:
            raise InvalidInput(
                f"account: {name!r} is not usable; take lower-case letters, digits, dots, dashes and underscores"
            )
        # Two addresses are two accounts. A colon is in no provider's name: no id stands for two accounts.
        address = hashlib.sha256(self.base_url.encode()).hexdigest()[:_ADDRESS_CHARS]
        return replace(self, id=f"{self.provider}:{name}:{address}", name=name)

    @property
    def sole_key_fingerprint(self) -> str | None:
        """Fingerprint of the key that has given an answer, where that can only be the one in use."""
        return self.key_fingerprint if self.previous_key_fingerprint is None else None

    def has_made(self, account: str, key_fingerprint: str | None) -> bool:
        """Tell whether a generation is of this account, by the id that it is recorded under and the key that sent it.

        What a key of the account has sent is its own under any name: a name may have changed since, or be another's.
        """
        return account == self.id or self.has_key(key_fingerprint)

    def has_key(self, key_fingerprint: str | None) -> bool:
        """Tell whether a key is that in use, or the one that it replaces."""
        return key_fingerprint is not None and key_fingerprint in (self.key_fingerprint, self.previous_key_fingerprint)


@dataclass(frozen=True)
class Capabilities:
    """Capabilities of a provider, of a plan at a provider, or of one of its models.

    Attributes:
        sizes: Longest duration in seconds for each resolution that is offered.
        aspect_ratios: Aspect ratios that are offered.
        durations: Exact durations that are offered, in seconds; empty for every whole second up to the longest.
        concurrency: Number of generations that may be unfinished at once; None when not known.
        monthly_videos: Number of videos a month; None when not limited.
        usd_per_second: Price in USD per second of video by the duration from which it holds; empty when unknown.
        can_list: Whether generations can be listed.
        can_cancel: Whether a running generation can be cancelled.
        lookup: Means to resolve an unanswered submit.
        free_outcomes: Final statuses that are known to cost nothing where the response has no cost; after any other,
            the reserved amount counts as spent.
        optional_fields: Optional fields of a shot that are supported (see `OPTIONAL_FIELDS`).
        max_references: Number of references, where any are supported; None when not limited.
        mixes_images: Whether references can be given beside a first or last frame.
        supports_webhook_url: Whether a submit can name the address of its webhook. Where that is configured in the
            provider's console instead, it is unknown here whether it was.
        fetches_webhook_keys: Whether `parse_webhook` may fetch verification keys over the network, and blocks then.
        retention: Time after its end for which a video can be fetched, where that is the same for all.
        seconds_per_video_second: Shortest and longest work, in seconds, for one second of video, as a first guess.
        aliases: Names of models that mean another model at this account than elsewhere, with that model: videos that
            are stored under such a name belong to the model.
        content_credentials: Whether every video is promised to carry a C2PA manifest.
        can_remix: Whether a finished generation can be made anew by another prompt.
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
    mixes_images: bool = True
    supports_webhook_url: bool = True
    fetches_webhook_keys: bool = False
    retention: timedelta | None = None
    seconds_per_video_second: tuple[float, float] = (6.0, 12.0)
    aliases: Mapping[str, str] = field(default_factory=dict)
    content_credentials: bool = False
    can_remix: bool = False


class Provider(Protocol):
    """Service that generates videos.

    Attributes:
        name: Name of the provider.
        account: The account whose key is used.
        capabilities: Capabilities of the provider, before those of a shot's model.
    """

    name: str
    account: Account
    capabilities: Capabilities

    async def load_capabilities(self) -> None:
        """Read models and live prices from the provider, where it lists them; later calls may use a cache.

        Raises:
            ProviderError: They could not be read; what is known without them still holds.
        """

    async def check_access(self) -> None:
        """Send a request that costs nothing and needs the key; do nothing where there is no such request.

        Raises:
            AuthenticationFailed: The key was rejected.
            ProviderError: There was no response, or none of this provider.
        """

    def capabilities_for(self, shot: Shot) -> Capabilities:
        """Return the capabilities of the shot's model: `capabilities`, or less."""

    def check(self, shot: Shot) -> None:
        """Reject a shot that cannot be made here, before anything is spent.

        Raises:
            Unsupported: The message names the field and the nearest value that is offered.
        """

    def estimate(self, shot: Shot) -> Decimal | None:
        """Estimate the cost of one generation of the shot in USD; None when the price is not known."""

    async def submit(
        self, shot: Shot, *, idempotency_key: str, project: str, webhook_url: str | None = None
    ) -> Generation:
        """Send the shot once: a paid request, which is never repeated in here.

        Args:
            shot: The shot.
            idempotency_key: Key of the job, sent where the dialect has a field for it.
            project: Name of the project, sent as a label where the dialect has one.
            webhook_url: Address for webhooks, where the dialect can be given one.

        Raises:
            RequestRejected: Nothing was accepted.
            GenerationFailed: It was accepted and failed at once; the error carries its id.
            SubmitOutcomeUnknown: It may have been accepted; `find_unclaimed` searches for it.
        """

    def download_source(self, generation: Generation) -> VideoSource:
        """Return the address of a completed generation's video, with headers only where the link needs the key.

        Raises:
            InvalidResponse: The generation has no video.
        """

    async def retrieve(self, generation_id: str) -> Generation:
        """Read one generation, with repeats on transient errors.

        Raises:
            NotFound: The provider does not know the id (perhaps only temporarily).
            ProviderUnavailable: There was no response in any attempt.
        """

    async def cancel(self, generation_id: str) -> Generation:
        """Cancel the generation if the provider still can, and return its state after that. Idempotent.

        Raises:
            NotFound: The provider does not know the id.
            ProviderUnavailable: There was no response.
        """

    def list(self, *, status: Status | None = None, created_after: datetime | None = None) -> AsyncIterator[Generation]:
        """Yield the generations of the account, newest first, page by page.

        Args:
            status: Yield only those with this status.
            created_after: Yield only those created after this time.
        """

    async def find_unclaimed(
        self, shot: Shot, *, idempotency_key: str, sent_at: datetime, known: Mapping[str, RecordedGeneration]
    ) -> Generation | None:
        """Find the generation that an unanswered submit may have started.

        Args:
            shot: The shot that was submitted.
            idempotency_key: The key that was sent with it.
            sent_at: The time when the request left, by this machine's clock; the provider's clock may differ.
            known: The generations of other jobs in the ledger by their ids.

        Returns:
            The generation, or None when the provider shows that there is none at this moment. One that echoes the key
            is returned even where it is known.

        Raises:
            UnclaimedFound: The provider has generations that may be the one.
            HeldForReview: It has no list.
            InvalidResponse: Its list is inconsistent, incomplete or out of date.
            ProviderUnavailable: There was no response.
        """

    def qualify_id(self, generation_id: str, shot: Shot) -> str:
        """Return the id of a shot's generation as the API takes it, given the one that the provider's console shows."""

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verify a delivery and read it.

        Raises:
            InvalidInput: The signature, the time or the body is invalid; the delivery must be ignored.
        """

    async def aclose(self) -> None:
        """Close all connections."""


def link_source(generation: Generation) -> VideoSource:
    """Return the link of a completed generation, to be fetched without any key.

    Raises:
        InvalidResponse: The generation has no link.
    """
    if generation.result is None:
        raise InvalidResponse(
            f"{generation.provider}: generation {generation.id} is completed and names no video",
            provider=generation.provider,
            generation_id=generation.id,
        )
    return VideoSource(url=generation.result.video_url)
