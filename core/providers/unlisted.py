"""What providers have in common that cannot list their generations: an unanswered submit is for a human."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import datetime

from prefect_video.errors import NeedsAttention, RequestRefused
from prefect_video.generations import Generation, Status
from prefect_video.shots import Shot


class UnlistedProvider:
    """Base of providers without a list."""

    name: str

    async def list(
        self, *, status: Status | None = None, created_after: datetime | None = None
    ) -> AsyncIterator[Generation]:
        """There is no list.

        Raises:
            RequestRefused: Always.
        """
        raise RequestRefused(f"{self.name} does not list its generations", provider=self.name)
        yield  # pragma: no cover -- makes this a generator, as the protocol wants

    async def find(
        self, shot: Shot, *, idempotency_key: str, sent_at: datetime, known_ids: Collection[str]
    ) -> Generation | None:
        """Cannot tell; see `Provider.find`."""
        raise NeedsAttention(
            f"{self.name} does not list its generations, so nobody can tell whether shot {shot.id!r} was accepted"
        )
