"""Remote generations as the provider keeps them, free of any dialect."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from prefect_video.shots import AspectRatio, Resolution, frame_size

Status = Literal["queued", "processing", "completed", "failed", "cancelled"]
FINISHED: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})

PRICE_PER_SECOND: dict[int, Decimal] = {
    5: Decimal("0.30"),
    10: Decimal("0.25"),
    15: Decimal("0.22"),
    20: Decimal("0.20"),
}
FPS = 24
"""Pictures per second where nothing else is asked for."""


def cost_usd(duration: int) -> Decimal:
    """Price of a completed video in USD with cents: the tier of the largest table duration not longer."""
    tier = max((step for step in PRICE_PER_SECOND if step <= duration), default=min(PRICE_PER_SECOND))
    return (PRICE_PER_SECOND[tier] * duration).quantize(Decimal("0.01"))


class GenerationRequest(BaseModel):
    """What a client asked for, after its dialect has checked it.

    Attributes:
        size: Width and height in pixels, for dialects that ask for these; else aspect ratio and resolution decide.
        frames: Exact number of pictures, for dialects that ask for it; else the duration decides.
        fps: Pictures per second.
        price_usd: What it costs by the dialect's own prices; None for the guide's.
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

    @property
    def frame_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.size or frame_size(self.aspect_ratio, self.resolution)

    @property
    def seed(self) -> str:
        """``metadata["seed"]`` where given, else a hash of prompt and parameters."""
        if self.metadata.get("seed") is not None:
            return json.dumps(self.metadata["seed"], sort_keys=True)
        parts = [self.model, self.prompt, self.duration, self.aspect_ratio, self.resolution]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class Failure(BaseModel):
    """Why a generation failed."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str


class Generation(BaseModel):
    """A generation and where it stands; times are Unix seconds.

    Attributes:
        account: Whose it is (never the API key itself).
        starts_at: When it leaves the queue.
        ends_at: When its work is over; it completes then, or when its clip is rendered if that is later.
        doomed: Whether it will fail at ``ends_at``.
        verdict: Why it will fail, and be billed all the same, where a fault says so.
        deleted: Whether the client has had it forgotten; work under way goes on all the same.
        file_size: Bytes of the video, once completed.
        cost: Billed USD, once completed.
    """

    id: str
    dialect: str
    account: str
    request: GenerationRequest
    created: float
    starts_at: float
    ends_at: float
    will_fail: bool = False
    verdict: Failure | None = None
    deleted: bool = False
    status: Status = "queued"
    failure: Failure | None = None
    finished: float | None = None
    file_size: int | None = None
    cost: Decimal | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the status is terminal."""
        return self.status in FINISHED

    @property
    def next_step_at(self) -> float:
        """When it leaves the queue, or is over."""
        return self.starts_at if self.status == "queued" else self.ends_at

    def progress(self, now: float) -> float:
        """Share of the work done, 0 to 1."""
        if now <= self.starts_at:
            return 0.0
        if now >= self.ends_at:
            return 1.0
        return (now - self.starts_at) / (self.ends_at - self.starts_at)


class GenerationIndex:
    """Generations in order of acceptance, by id, by account and by being unfinished."""

    def __init__(self) -> None:
        self._generations: dict[str, Generation] = {}
        self._by_account: defaultdict[str, list[Generation]] = defaultdict(list)
        self._unfinished: defaultdict[str, dict[str, Generation]] = defaultdict(dict)

    def add(self, generation: Generation) -> None:
        """Append a generation."""
        self._generations[generation.id] = generation
        self._by_account[generation.account].append(generation)
        if not generation.is_finished:
            self._unfinished[generation.account][generation.id] = generation

    def finish(self, generation: Generation) -> None:
        """Free the slot that a generation occupied."""
        self._unfinished[generation.account].pop(generation.id, None)

    def clear(self) -> None:
        """Remove every generation."""
        self._generations.clear()
        self._by_account.clear()
        self._unfinished.clear()

    def get(self, generation_id: str) -> Generation | None:
        """Return the generation of that id, of any account."""
        return self._generations.get(generation_id)

    def newest_first(self, account: str) -> Iterable[Generation]:
        """Iterate over the generations of an account."""
        return reversed(self._by_account[account])

    def unfinished(self, account: str) -> list[Generation]:
        """Return the generations of an account that occupy a slot."""
        return list(self._unfinished[account].values())

    def all_unfinished(self) -> list[Generation]:
        """Return the generations of all accounts that occupy a slot."""
        return [generation for held in self._unfinished.values() for generation in held.values()]

    def count_unfinished(self, account: str | None = None) -> int:
        """Count the slots occupied by an account, or by all."""
        if account is not None:
            return len(self._unfinished[account])
        return sum(len(held) for held in self._unfinished.values())
