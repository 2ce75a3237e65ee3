"""A provider whose answers are noted by its account's circuit breaker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from prefect_video.downloads import VideoSource
from prefect_video.errors import ProviderError
from prefect_video.generations import Generation, Status, WebhookEvent
from prefect_video.providers.base import Capabilities, Provider
from prefect_video.shots import Shot
from prefect_video.waiting.breaker import Breaker

Answer = TypeVar("Answer")


class GuardedProvider:
    """The provider it is given, with the breaker told of the end of each request that costs nothing."""

    def __init__(self, provider: Provider, breaker: Breaker) -> None:
        self._provider = provider
        self._breaker = breaker
        self.name = provider.name
        self.account = provider.account
        self.capabilities = provider.capabilities
        # As it is: how a submit ended is for the caller to note, once that is on record.
        self.submit = provider.submit

    async def prepare(self) -> None:
        """See `Provider.prepare`."""
        await self._noted(self._provider.prepare())
        self.capabilities = self._provider.capabilities

    async def check_access(self) -> None:
        """See `Provider.check_access`. One that fails is no trouble yet."""
        await self._provider.check_access()

    def offered(self, shot: Shot) -> Capabilities:
        """See `Provider.offered`."""
        return self._provider.offered(shot)

    def check(self, shot: Shot) -> None:
        """See `Provider.check`."""
        self._provider.check(shot)

    def estimate(self, shot: Shot) -> Decimal | None:
        """See `Provider.estimate`."""
        return self._provider.estimate(shot)

    def source(self, generation: Generation) -> VideoSource:
        """See `Provider.source`."""
        return self._provider.source(generation)

    async def retrieve(self, generation_id: str) -> Generation:
        """See `Provider.retrieve`."""
        return await self._noted(self._provider.retrieve(generation_id))

    async def cancel(self, generation_id: str) -> Generation:
        """See `Provider.cancel`."""
        return await self._noted(self._provider.cancel(generation_id))

    async def list(
        self, *, status: Status | None = None, created_after: datetime | None = None
    ) -> AsyncIterator[Generation]:
        """See `Provider.list`."""
        try:
            async for generation in self._provider.list(status=status, created_after=created_after):
                yield generation
        except ProviderError as error:
            await self._breaker.note(error)
            raise
        await self._breaker.note(None)

    async def find_unclaimed(
        self, shot: Shot, *, idempotency_key: str, sent_at: datetime, known: Mapping[str, datetime]
    ) -> Generation | None:
        """See `Provider.find_unclaimed`."""
        return await self._noted(
            self._provider.find_unclaimed(shot, idempotency_key=idempotency_key, sent_at=sent_at, known=known)
        )

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """See `Provider.parse_webhook`."""
        return self._provider.parse_webhook(headers, body)

    async def aclose(self) -> None:
        """See `Provider.aclose`."""
        await self._provider.aclose()

    async def _noted(self, request: Awaitable[Answer]) -> Answer:
        try:
            answer = await request
        except Exception as error:
            await self._breaker.note(error)
            raise
        await self._breaker.note(None)
        return answer
