"""The circuit breaker of an account: a provider in trouble is left alone, by every process that shares the ledger."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, TypeVar

from prefect_video.downloads import VideoSource
from prefect_video.errors import (
    CircuitOpen,
    LedgerError,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    SubmitOutcomeUnknown,
)
from prefect_video.generations import Generation, Status, WebhookEvent
from prefect_video.ledger import AccountStatus, Ledger
from prefect_video.providers import Capabilities, Provider
from prefect_video.shots import Shot

logger = logging.getLogger(__name__)

_ASK_AGAIN_SECONDS: Final = 2.0
_FAILURES: Final = (ProviderUnavailable, SubmitOutcomeUnknown)
"""What counts against a provider: no answer and 5xx; never a 4xx, which is ours."""


@dataclass
class CircuitBreaker:
    """Counts a provider's troubles in the ledger; open, it holds submits back and slows polls down.

    Attributes:
        ledger: Where the count is shared.
        provider: Name, for messages.
        account: The account's id.
        threshold: Troubles in a row that open it.
        open_seconds: How long it stays open before one submit may try.
        quota_seconds: How long a used-up quota is believed of which the provider does not say until when: somebody may
            pay at any time.
        on_change: Told when this process has opened or closed it.
    """

    ledger: Ledger
    provider: str
    account: str
    threshold: int = 5
    open_seconds: float = 300.0
    quota_seconds: float = 300.0
    on_change: Callable[[AccountStatus], None] | None = None
    _known_well: bool = field(default=False, init=False)
    _submits_unwell: bool = field(default=False, init=False)
    _reads_unwell: bool = field(default=False, init=False)
    _opened_by_read: bool = field(default=False, init=False)
    _used_up: QuotaExhausted | None = field(default=None, init=False)
    _used_up_until: datetime = field(default=datetime.min.replace(tzinfo=UTC), init=False)
    _open_until: datetime | None = field(default=None, init=False)

    async def before_submit(self) -> bool:
        """Lets a submit pass.

        Returns:
            Whether it is the one that tries for all others; should it not be sent after all, `withdraw` it.

        Raises:
            CircuitOpen: The breaker is open, or another process is trying; says when to ask again.
            QuotaExhausted: The provider has said that the period's quota is used up.
        """
        if self._used_up is not None and datetime.now(UTC) < self._used_up_until:
            raise QuotaExhausted(
                f"{self._used_up.message} (this process asks again from {self._used_up_until:%H:%M:%S} UTC on)",
                provider=self.provider,
            )
        standing = await self.ledger.accounts.status(self.account)
        if standing.quota_until is not None:
            raise QuotaExhausted(
                f"{self.provider}: the quota is used up until {standing.quota_until:%Y-%m-%d %H:%M} UTC: wait for the"
                " next period, or use another account",
                provider=self.provider,
            )
        if standing.breaker == "closed":
            self._open_until = None
            return False
        # The polls of this process slow down as well, whoever met the trouble.
        self._open_until = standing.open_until
        # How the next submit ends is news for everybody, however well this process has known the provider.
        self._known_well = False
        if standing.breaker == "half_open" and await self.ledger.accounts.try_half_open(self.account):
            return True
        left = (standing.open_until - datetime.now(UTC)).total_seconds() if standing.open_until else 0.0
        raise CircuitOpen(
            f"{self.provider}: in trouble ({standing.failures} failures in a row); nothing is sent for now",
            provider=self.provider,
            retry_after=max(left, _ASK_AGAIN_SECONDS if standing.breaker == "half_open" else 0.5),
        )

    async def cancel_trial(self) -> None:
        """Leaves it to another submit to try."""
        await self.ledger.accounts.end_half_open(self.account)

    async def record(self, error: BaseException | None, *, submit: bool = False) -> None:
        """Notes how a request ended; None for well. The ledger is written only where that changes something.

        A read that goes well says nothing about submits: only a submit closes what submits have opened, here or in
        another process.
        """
        if isinstance(error, CircuitOpen) or (error is not None and not isinstance(error, ProviderError)):
            return
        try:
            if isinstance(error, _FAILURES):
                await self._note_trouble(submit)
            elif submit:
                self._note_quota(error)
                if not self._known_well:
                    await self._note_health(closes=True)
            elif self._reads_unwell and not self._submits_unwell:
                await self._note_health(closes=self._opened_by_read)
            elif self.open_for_seconds() > 0:
                # Another process may have closed it.
                self._open_until = (await self.ledger.accounts.status(self.account)).open_until
        except LedgerError as trouble:
            # The breaker is a courtesy; what is known of the provider is not worth failing a step that went well.
            logger.warning("the breaker of %s could not be noted: %s", self.account, trouble)

    def _note_quota(self, error: BaseException | None) -> None:
        """Believes one that does not say until when for a while; the ledger keeps the others."""
        self._used_up = error if isinstance(error, QuotaExhausted) and not error.retry_after else None
        self._used_up_until = datetime.now(UTC) + timedelta(seconds=self.quota_seconds)

    async def _note_trouble(self, submit: bool) -> None:
        self._submits_unwell |= submit
        self._reads_unwell |= not submit
        self._known_well = False
        standing = await self.ledger.accounts.record_failure(
            self.account, threshold=self.threshold, open_seconds=self.open_seconds
        )
        self._open_until = standing.open_until
        if not standing.just_opened:
            return
        self._opened_by_read = not submit
        if self.on_change:
            self.on_change(standing)

    async def _note_health(self, *, closes: bool) -> None:
        closed = await self.ledger.accounts.record_success(self.account, closes=closes)
        if closed and self.on_change:
            self.on_change(AccountStatus(account=self.account))
        self._submits_unwell = self._reads_unwell = self._opened_by_read = False
        if closes:
            self._known_well, self._open_until = True, None
        else:
            self._open_until = (await self.ledger.accounts.status(self.account)).open_until

    def open_for_seconds(self) -> float:
        """How long polls should hold; 0 while the breaker is closed as far as this process knows."""
        if self._open_until is None:
            return 0.0
        return max(0.0, (self._open_until - datetime.now(UTC)).total_seconds())


Answer = TypeVar("Answer")


class CircuitBreakerProvider:
    """The provider it is given, with the breaker told of the end of each request that costs nothing."""

    def __init__(self, provider: Provider, breaker: CircuitBreaker) -> None:
        self._provider = provider
        self._breaker = breaker
        self.name = provider.name
        self.account = provider.account
        self.capabilities = provider.capabilities
        # As it is: how a submit ended is for the caller to note, once that is on record.
        self.submit = provider.submit

    async def load_capabilities(self) -> None:
        """See `Provider.prepare`."""
        await self._noted(self._provider.load_capabilities())
        self.capabilities = self._provider.capabilities

    async def check_access(self) -> None:
        """See `Provider.check_access`. One that fails is no trouble yet."""
        await self._provider.check_access()

    def capabilities_for(self, shot: Shot) -> Capabilities:
        """See `Provider.offered`."""
        return self._provider.capabilities_for(shot)

    def check(self, shot: Shot) -> None:
        """See `Provider.check`."""
        self._provider.check(shot)

    def estimate(self, shot: Shot) -> Decimal | None:
        """See `Provider.estimate`."""
        return self._provider.estimate(shot)

    def download_source(self, generation: Generation) -> VideoSource:
        """See `Provider.source`."""
        return self._provider.download_source(generation)

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
            await self._breaker.record(error)
            raise
        await self._breaker.record(None)

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
            await self._breaker.record(error)
            raise
        await self._breaker.record(None)
        return answer
