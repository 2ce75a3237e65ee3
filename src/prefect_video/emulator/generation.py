"""Generations as the emulated provider keeps them, independent of any dialect."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from prefect_video.frame_sizes import AspectRatio, Resolution, frame_size

EmulatedStatus = Literal["queued", "processing", "completed", "failed", "cancelled"]
FINISHED: frozenset[EmulatedStatus] = frozenset({"completed", "failed", "cancelled"})

PRICE_PER_SECOND: dict[int, Decimal] = {
    5: Decimal("0.30"),
    10: Decimal("0.25"),
    15: Decimal("0.22"),
    20: Decimal("0.20"),
}
FPS = 24
"""Frames per second unless a request names another rate."""


def cost_usd(duration: int) -> Decimal:
    """Return the price of a completed video in USD, by the tier of the longest listed duration that it reaches."""
    tier = max((step for step in PRICE_PER_SECOND if step <= duration), default=min(PRICE_PER_SECOND))
    return (PRICE_PER_SECOND[tier] * duration).quantize(Decimal("0.01"))


class GenerationRequest(BaseModel):
    """A video that a client requested, as validated by its dialect.

    Attributes:
        size: Width and height in pixels, in dialects that send them; else aspect ratio and resolution decide.
        frames: Exact number of frames, in dialects that send it; else the duration decides.
        fps: Frames per second.
        price_usd: Price by the dialect's own list; None means the reference prices (`PRICE_PER_SECOND`).
        images: Digests of the images by the field of a shot that they are for; the engine has the images.
        audio: Whether the video has sound, where the request says so.
        watermark: Whether a mark is in the picture, where the request says so.
        options: Further input of the model.
        remix_of: Id of the generation that it is a remix of; None for one of its own.
        scenery: Seed of the original's scenery, which a remix keeps.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    prompt: str
    duration: int
    aspect_ratio: AspectRatio
    resolution: Resolution
    metadata: dict[str, Any] = {}
    webhook_url: str | None = None
    size: tuple[int, int] | None = None
    frames: int | None = None
    fps: int = FPS
    price_usd: Decimal | None = None
    images: dict[str, tuple[str, ...]] = {}
    audio: bool | None = None
    watermark: bool | None = None
    options: dict[str, Any] = {}
    remix_of: str | None = None
    scenery: str | None = None

    def remix(self, original_id: str, prompt: str, **changes: Any) -> GenerationRequest:
        """Return the request of a remix of this one's generation: its model, length, picture and price, and no images.

        Args:
            original_id: Id of this one's generation.
            prompt: The new prompt.
            changes: Fields that the dialect sets.
        """
        own = {"prompt": prompt, "remix_of": original_id, "scenery": self.seed, "images": {}, "options": {}}
        return self.model_copy(update={**own, "metadata": {}, "webhook_url": None, **changes})

    @property
    def frame_size(self) -> tuple[int, int]:
        """Return width and height in pixels."""
        return self.size or frame_size(self.aspect_ratio, self.resolution)

    @property
    def seed(self) -> str:
        """Return that of a remix's original, `metadata["seed"]` where given, else a hash of prompt and parameters."""
        if self.scenery is not None:
            return self.scenery
        if self.metadata.get("seed") is not None:
            return json.dumps(self.metadata["seed"], sort_keys=True)
        parts = [self.model, self.prompt, self.duration, self.aspect_ratio, self.resolution]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class Failure(BaseModel):
    """Reason for which a generation failed: code and message."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str


class EmulatedGeneration(BaseModel):
    """One generation with its state; times are Unix seconds.

    Attributes:
        account: Account that owns it (never the API key itself).
        starts_at: Time at which it leaves the queue.
        ends_at: Time at which its work ends; it completes then, or once its clip is rendered if that is later.
        will_fail: True if it fails at `ends_at`.
        billed_failure: Failure that an injected fault has planned for `ends_at`; the generation is billed all the same.
        deleted: True once the client deleted it; work in progress, and its bill, continue.
        file_size: Bytes of the video, once rendered.
        cost: Billed USD, once billed.
    """

    id: str
    dialect: str
    account: str
    request: GenerationRequest
    created: float
    starts_at: float
    ends_at: float
    will_fail: bool = False
    billed_failure: Failure | None = None
    deleted: bool = False
    status: EmulatedStatus = "queued"
    failure: Failure | None = None
    finished: float | None = None
    file_size: int | None = None
    cost: Decimal | None = None

    @property
    def is_finished(self) -> bool:
        """Return True if the status is terminal."""
        return self.status in FINISHED

    @property
    def next_step_at(self) -> float:
        """Return the time of the next change of status."""
        return self.starts_at if self.status == "queued" else self.ends_at

    def progress(self, now: float) -> float:
        """Return the share of the work done at `now`, 0 to 1."""
        if now <= self.starts_at:
            return 0.0
        if now >= self.ends_at:
            return 1.0
        return (now - self.starts_at) / (self.ends_at - self.starts_at)


class GenerationIndex:
    """Index of generations by id, by account in order of acceptance, and of those unfinished."""

    def __init__(self) -> None:
        self._generations: dict[str, EmulatedGeneration] = {}
        self._by_account: defaultdict[str, list[EmulatedGeneration]] = defaultdict(list)
        self._unfinished: defaultdict[str, dict[str, EmulatedGeneration]] = defaultdict(dict)

    def add(self, generation: EmulatedGeneration) -> None:
        """Append a generation."""
        self._generations[generation.id] = generation
        self._by_account[generation.account].append(generation)
        if not generation.is_finished:
            self._unfinished[generation.account][generation.id] = generation

    def finish(self, generation: EmulatedGeneration) -> None:
        """Free the slot that a generation occupied."""
        self._unfinished[generation.account].pop(generation.id, None)

    def clear(self) -> None:
        """Remove every generation."""
        self._generations.clear()
        self._by_account.clear()
        self._unfinished.clear()

    def get(self, generation_id: str) -> EmulatedGeneration | None:
        """Return the generation of that id, of any account."""
        return self._generations.get(generation_id)

    def newest_first(self, account: str) -> Iterable[EmulatedGeneration]:
        """Iterate over the generations of an account."""
        return reversed(self._by_account[account])

    def oldest_first(self) -> Iterable[EmulatedGeneration]:
        """Iterate over the generations of all accounts."""
        return self._generations.values()

    def unfinished(self, account: str) -> list[EmulatedGeneration]:
        """Return the generations of an account that occupy a slot."""
        return list(self._unfinished[account].values())

    def all_unfinished(self) -> list[EmulatedGeneration]:
        """Return the generations of all accounts that occupy a slot."""
        return [generation for unfinished in self._unfinished.values() for generation in unfinished.values()]

    def count_unfinished(self, account: str | None = None) -> int:
        """Count the slots occupied by an account, or by all."""
        if account is not None:
            return len(self._unfinished[account])
        return sum(len(unfinished) for unfinished in self._unfinished.values())
