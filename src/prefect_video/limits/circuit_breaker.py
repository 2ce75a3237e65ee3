"""Circuit breaker of an account, shared through the ledger by all processes that use it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, TypeVar

from prefect_video._counted import counted
from prefect_video.downloads import VideoSource
from prefect_video.errors import (
    CircuitOpen,
    LedgerError,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    SubmitOutcomeUnknown,
)
from prefect_video.generations import Generation, RecordedGeneration, Status, WebhookEvent
from prefect_video.ledger import AccountStatus, Ledger
from prefect_video.providers import Capabilities, Provider, with_key
from prefect_video.shots import Shot

logger = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 2.0
_FAILURES: Final = (ProviderUnavailable, SubmitOutcomeUnknown)
"""Errors that count against a provider: no result and 5xx; never a 4xx, which is the request's fault."""


@dataclass
class CircuitBreaker:
    """A circuit breaker that counts failures in the ledger; open, it holds submits back and slows polls down.

    Attributes:
        ledger: The ledger that shares the count.
        provider: The provider's name, for messages.
        account: The account's id.
        threshold: Failures in a row that open it.
        open_seconds: How long it stays open before one submit may try.
        quota_seconds: How long a used-up quota counts where the provider does not say until when: a customer may top
            it up at any time.
        on_change: Called when this process has opened or closed it.
    """

    ledger: Ledger
    provider: str
    account: str
    threshold: int = 5
    open_seconds: float = 300.0
    quota_seconds: float = 300.0
    on_change: Callable[[AccountStatus], None] | None = None
    _is_known_healthy: bool = field(default=False, init=False)
    _submits_failing: bool = field(default=False, init=False)
    _reads_failing: bool = field(default=False, init=False)
    _opened_by_read: bool = field(default=False, init=False)
    _quota_error: QuotaExhausted | None = field(default=None, init=False)
    _quota_until: datetime = field(default=datetime.min.replace(tzinfo=UTC), init=False)
    _open_until: datetime | None = field(default=None, init=False)

    async def before_submit(self) -> bool:
        """Let a submit pass, or refuse it, by what the ledger says of the account.

        Returns:
            True where it is the trial of a half-open breaker; if it is not sent after all, call `cancel_trial`.

        Raises:
            CircuitOpen: The breaker is open, or another process makes the trial; with the time to try again.
            QuotaExhausted: The provider has said that the period's quota is used up.
        """
        status = await self.ledger.accounts.status(self.account)
        try:
            self.admit(status)
        except CircuitOpen:
            # One process of all makes the trial: its outcome decides for the others.
            if status.breaker == "half_open" and await self.ledger.accounts.try_half_open(self.account):
                return True
            raise
        return False

    def admit(self, status: AccountStatus) -> None:
        """Let a submit pass, or refuse it, by the account's status as it is at this moment.

        The ledger calls it in the thread of its transaction, while the event loop may be recording a failure.

        Raises:
            CircuitOpen: The breaker is not closed; with the time to try again. `before_submit` makes the trial.
            QuotaExhausted: The provider has said that the period's quota is used up.
        """
        if self._quota_error is not None and datetime.now(UTC) < self._quota_until:
            raise QuotaExhausted(
                f"{self._quota_error.message} (this process tries again from {self._quota_until:%H:%M:%S} UTC on)",
                provider=self.provider,
            )
        if status.quota_until is not None:
            raise QuotaExhausted(
                f"{self.provider}: the quota is used up until {status.quota_until:%Y-%m-%d %H:%M} UTC: wait for the"
                " next period, or use another account",
                provider=self.provider,
            )
        if status.breaker == "closed":
            self._open_until = None
            if status.failures == 0 and not (self._submits_failing or self._reads_failing):
                # A success then changes nothing in the ledger.
                self._is_known_healthy = True
            return
        # The polls of this process slow down as well, whichever process met the failures.
        self._open_until = status.open_until
        # The end of the next submit must be recorded, although this process knew the provider as healthy.
        self._is_known_healthy = False
        left = (status.open_until - datetime.now(UTC)).total_seconds() if status.open_until else 0.0
        raise CircuitOpen(
            f"{self.provider}: in trouble ({counted(status.failures, 'failure')} in a row); nothing is sent for now",
            provider=self.provider,
            retry_after=max(left, _RETRY_SECONDS if status.breaker == "half_open" else 0.5),
        )

    async def cancel_trial(self) -> None:
        """Give the trial back, so that another submit can make it."""
        await self.ledger.accounts.end_half_open(self.account)

    async def record(self, error: BaseException | None, *, submit: bool = False) -> None:
        """Record how a request ended; the ledger is written only where that changes something.

        A read that succeeds says nothing about submits: only a submit closes a breaker that submits have opened, in
        this process or another one.

        Args:
            error: How it failed; None for a success.
            submit: The request was a submit.
        """
        # Nothing was sent, or the defect is of this package: neither tells anything about the provider.
        if isinstance(error, CircuitOpen) or (error is not None and not isinstance(error, ProviderError)):
            return
        try:
            if isinstance(error, _FAILURES):
                await self._record_failure(submit)
            elif submit:
                self._record_quota(error)
                if not self._is_known_healthy or self._submits_failing or self._reads_failing:
                    await self._record_success(closes=True)
            elif self._reads_failing and not self._submits_failing:
                await self._record_success(closes=self._opened_by_read)
            elif self.open_for_seconds() > 0:
                # Another process may have closed it: read it, so that polls do not stay slow.
                self._open_until = (await self.ledger.accounts.status(self.account)).open_until
        except LedgerError as ledger_error:
            # The breaker is a courtesy: it is no reason to fail a step whose request succeeded.
            logger.warning("the circuit breaker of %s could not be updated: %s", self.account, ledger_error)

    def _record_quota(self, error: BaseException | None) -> None:
        """Remember a used-up quota without an end for a while; the ledger keeps those with an end."""
        self._quota_error = error if isinstance(error, QuotaExhausted) and not error.retry_after else None
        self._quota_until = datetime.now(UTC) + timedelta(seconds=self.quota_seconds)

    async def _record_failure(self, submit: bool) -> None:
        self._submits_failing |= submit
        self._reads_failing |= not submit
        self._is_known_healthy = False
        status = await self.ledger.accounts.record_failure(
            self.account, threshold=self.threshold, open_seconds=self.open_seconds
        )
        self._open_until = status.open_until
        # Of all processes that count failures, the one that opened it reports the change.
        if not status.just_opened:
            return
        self._opened_by_read = not submit
        if self.on_change:
            self.on_change(status)

    async def _record_success(self, *, closes: bool) -> None:
        closed = await self.ledger.accounts.record_success(self.account, closes=closes)
        if closed and self.on_change:
            self.on_change(AccountStatus(account=self.account))
        self._submits_failing = self._reads_failing = self._opened_by_read = False
        if closes:
            self._is_known_healthy, self._open_until = True, None
        else:
            self._open_until = (await self.ledger.accounts.status(self.account)).open_until

    def open_for_seconds(self) -> float:
        """Return the seconds for which polls should pause; 0 while this process knows the breaker as closed."""
        if self._open_until is None:
            return 0.0
        return max(0.0, (self._open_until - datetime.now(UTC)).total_seconds())


ResultT = TypeVar("ResultT")


class CircuitBreakerProvider:
    """A provider decorated with a circuit breaker, which records the end of each request that costs nothing."""

    def __init__(self, provider: Provider, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._use(provider)

    def _use(self, provider: Provider) -> None:
        self._provider = provider
        self.name = provider.name
        self.account = provider.account
        self.capabilities = provider.capabilities
        # Undecorated: the caller records the end of a submit, once its outcome is in the ledger.
        self.submit = provider.submit

    def replace(self, provider: Provider) -> Provider:
        """Use another provider of the same account from now on, as with a new key; return the former one."""
        former = self._provider
        self._use(provider)
        return former

    def with_key(self, key_fingerprint: str | None) -> Provider | None:
        found = with_key(self._provider, key_fingerprint)
        return found and CircuitBreakerProvider(found, self._breaker)

    async def load_capabilities(self) -> None:
        await self._recorded(self._provider.load_capabilities())
        self.capabilities = self._provider.capabilities

    async def check_access(self) -> None:
        # Undecorated: a session's first read that fails says nothing yet.
        await self._provider.check_access()

    def capabilities_for(self, shot: Shot) -> Capabilities:
        return self._provider.capabilities_for(shot)

    def check(self, shot: Shot) -> None:
        self._provider.check(shot)

    def estimate(self, shot: Shot) -> Decimal | None:
        return self._provider.estimate(shot)

    def download_source(self, generation: Generation) -> VideoSource:
        return self._provider.download_source(generation)

    async def retrieve(self, generation_id: str) -> Generation:
        return await self._recorded(self._provider.retrieve(generation_id))

    async def cancel(self, generation_id: str) -> Generation:
        return await self._recorded(self._provider.cancel(generation_id))

    async def list(
        self, *, status: Status | None = None, created_after: datetime | None = None
    ) -> AsyncIterator[Generation]:
        try:
            async for generation in self._provider.list(status=status, created_after=created_after):
                yield generation
        except ProviderError as error:
            await self._breaker.record(error)
            raise
        # Only here: a list that its reader leaves early says nothing about the provider.
        await self._breaker.record(None)

    async def find_unclaimed(
        self, shot: Shot, *, idempotency_key: str, sent_at: datetime, known: Mapping[str, RecordedGeneration]
    ) -> Generation | None:
        return await self._recorded(
            self._provider.find_unclaimed(shot, idempotency_key=idempotency_key, sent_at=sent_at, known=known)
        )

    def qualify_id(self, generation_id: str, shot: Shot) -> str:
        return self._provider.qualify_id(generation_id, shot)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        return self._provider.parse_webhook(headers, body)

    @property
    def clock_offset(self) -> timedelta | None:
        """Return the offset of the provider's clock from this machine's, where it is known."""
        # Not of the contract: a provider need not be a server.
        return getattr(self._provider, "clock_offset", None)

    async def aclose(self) -> None:
        await self._provider.aclose()

    async def _recorded(self, request: Awaitable[ResultT]) -> ResultT:
        try:
            result = await request
        except Exception as error:
            await self._breaker.record(error)
            raise
        await self._breaker.record(None)
        return result
