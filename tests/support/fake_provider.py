"""Fake provider for tests of polling: it keeps to the protocol and runs in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from prefect_video.errors import NotFound
from prefect_video.generations import Generation, Status, VideoResult
from prefect_video.providers.base import Account, Capabilities
from tests.support.virtual_time import now

PAGE = 100
RESULT = VideoResult(video_url="https://cdn.example/video.mp4")


@dataclass
class Job:
    """Generation with its begin and duration in virtual seconds."""

    id: str
    began: float
    seconds: float
    created_at: datetime
    status: Status = Status.COMPLETED

    @property
    def ends(self) -> float:
        return self.began + self.seconds


@dataclass
class FakeProvider:
    """Provider that behaves like the Sora dialect: list items have no price.

    Attributes:
        faults: Called with the operation and id before each response; may raise.
        latency: Seconds until each response.
    """

    can_list: bool = True
    priced: bool = True
    latency: float = 0.05
    faults: Callable[[str, str], None] | None = None
    hide: Callable[[Job], bool] | None = None
    jobs: dict[str, Job] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    looks: list[tuple[float, str]] = field(default_factory=list)
    name: str = "fake"

    def __post_init__(self) -> None:
        self.account = Account.from_key(self.name, "https://fake.example", "key")
        self.capabilities = Capabilities(sizes={}, aspect_ratios=(), can_list=self.can_list)

    def start(self, seconds: float, **changes: Any) -> Job:
        """Accept a generation that takes that many virtual seconds."""
        job = Job(f"gen-{len(self.jobs)}", now(), seconds, datetime.now(UTC))
        self.jobs[job.id] = replace(job, **changes)
        return self.jobs[job.id]

    async def retrieve(self, generation_id: str) -> Generation:
        self.requests["retrieve"] += 1
        self.looks.append((now(), generation_id))
        await asyncio.sleep(self.latency)
        if self.faults:
            self.faults("retrieve", generation_id)
        if generation_id not in self.jobs:
            raise NotFound("no such generation", provider=self.name, generation_id=generation_id)
        return self._build_generation(self.jobs[generation_id], whole=True)

    async def list(
        self, *, status: Status | None = None, created_after: datetime | None = None
    ) -> AsyncIterator[Generation]:
        jobs = [job for job in reversed(self.jobs.values()) if created_after is None or job.created_at > created_after]
        for start in range(0, len(jobs) or 1, PAGE):
            self.requests["list"] += 1
            self.looks.append((now(), "list"))
            await asyncio.sleep(self.latency)
            if self.faults:
                self.faults("list", "")
            for job in jobs[start : start + PAGE]:
                if self.hide is None or not self.hide(job):
                    yield self._build_generation(job, whole=False)

    def _build_generation(self, job: Job, *, whole: bool) -> Generation:
        ended = now() >= job.ends
        done = ended and job.status is Status.COMPLETED
        return Generation(
            id=job.id,
            provider=self.name,
            status=job.status if ended else Status.PROCESSING,
            result=RESULT if done else None,
            cost_usd=Decimal("2.50") if done and whole and self.priced else None,
        )
