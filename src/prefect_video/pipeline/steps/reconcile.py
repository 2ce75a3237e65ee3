"""Reconciling: finding out whether an unanswered submit was accepted, before anything is sent again."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from prefect_video.errors import (
    AuthenticationFailed,
    IllegalTransition,
    NeedsAttention,
    ProviderError,
    QuotaExhausted,
    RequestRefused,
    UnreadableAnswer,
)
from prefect_video.generations import Generation
from prefect_video.ledger import Entry, HoldReason, hold_message
from prefect_video.pipeline.steps.conflicts import find_other_row, hold_conflict
from prefect_video.pipeline.steps.end import demand_account
from prefect_video.polling.poller import may_pass
from prefect_video.providers.matching import KEY_FIELD
from prefect_video.session.session import SessionEvent, Studio

logger = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS: Final = 1.0
_LOOK_AGAIN_LIMIT_SECONDS: Final = 10.0
_EMPTY_LOOKS: Final = 2
"""How often the list must show nothing: a page may come from a replica that is behind."""


@dataclass(frozen=True)
class _SettleTime:
    """When an unanswered submit can no longer be accepted: by two clocks, and the later one decides.

    A clock on the wall can be set, and this process's own has not seen what was before it.

    Attributes:
        at: By the ledger's clock, which all processes share.
        monotonic_at: By this process's monotonic clock, counted from when the process took the row up.
    """

    at: datetime
    monotonic_at: float

    @classmethod
    def begin(cls, entry: Entry, settle_seconds: float) -> Self:
        """Begin to wait for a row."""
        return cls(
            at=(entry.unknown_at or entry.updated_at) + timedelta(seconds=settle_seconds),
            monotonic_at=asyncio.get_running_loop().time() + settle_seconds,
        )

    def seconds_left(self, now: datetime) -> float:
        """Return how long it takes until both clocks are past it, given the ledger's time; negative after that."""
        by_ledger = (self.at - now).total_seconds()
        return max(by_ledger, self.monotonic_at - asyncio.get_running_loop().time())


async def reconcile(studio: Studio, entry: Entry) -> Entry:
    """Brings an unknown row to submitted (it was accepted) or back to reserved (proven absent).

    Absence is proven by looks at the provider's whole list of which the last began later than `settle_seconds` after
    the outcome had become unknown: until then the provider may still be accepting the request, and what looks unclaimed
    may be about to be recorded by another row.

    Raises:
        NeedsAttention: The provider cannot tell, and the row is held; or another account's key sent it.
        ProviderError: The provider gives no answer; the row stays unknown and can be reconciled later.
    """
    demand_account(studio, entry)
    studio.tell(SessionEvent.UNANSWERED, entry)
    settle_time = _SettleTime.begin(entry, studio.settings.settle_seconds)
    delay = _LOOK_AGAIN_SECONDS
    empty = 0
    while True:
        looked_at = await studio.ledger.now()
        left = settle_time.seconds_left(looked_at)
        try:
            found = await _find(studio, entry, looked_at)
        except NeedsAttention as error:
            if left <= 0 or not studio.provider.capabilities.can_list:
                return await _undecided(studio, entry, str(error))
            empty = 0
        except ProviderError as error:
            is_last = left <= -studio.settings.submit_patience_seconds
            if _cannot_tell(error) or (is_last and isinstance(error, UnreadableAnswer)):
                return await _undecided(studio, entry, f"{entry.provider} does not list its generations ({error})")
            if is_last or not may_pass(error):
                raise
            logger.warning("shot %s: cannot reconcile yet: %s", entry.shot.id, error)
        else:
            if found is not None:
                current = await _take(studio, entry, found)
                if current.state is entry.state:
                    continue
                return current
            empty += 1
            if left <= 0 and empty >= _EMPTY_LOOKS:
                return await studio.ledger.return_to_reserved(entry.id, "reconciled: proven absent at the provider")
        await asyncio.sleep(_until_next_look(delay, settle_time.seconds_left(await studio.ledger.now())))
        delay = min(delay * 1.5, _LOOK_AGAIN_LIMIT_SECONDS)


async def _find(studio: Studio, entry: Entry, now: datetime) -> Generation | None:
    # The ledger's clock has told when it was sent; the provider's is measured against this machine's.
    sent_at = (entry.sent_at or entry.created_at) + (datetime.now(UTC) - now)
    known = await studio.ledger.recorded_generations(entry.account)
    return await studio.provider.find_unclaimed(entry.shot, idempotency_key=entry.id, sent_at=sent_at, known=known)


async def _take(studio: Studio, entry: Entry, found: Generation) -> Entry:
    try:
        entry = await studio.ledger.record_submitted(entry.id, found, detail="reconciled: it was accepted")
    except IllegalTransition:
        owner = await find_other_row(studio, entry, found.id)
        if owner is not None and found.metadata.get(KEY_FIELD) == entry.id:
            raise await hold_conflict(studio, entry, found.id, owner) from None
        # Two rows with the same prompt saw the same generation: the other one has it now.
        return await studio.ledger.get(entry.id)
    studio.fresh_generations.put(found)
    studio.tell(SessionEvent.SUBMITTED, entry, "reconciled")
    return entry


def _cannot_tell(error: ProviderError) -> bool:
    """Check if the list was refused for good, as where there is none, and not for the key's or a quota's sake."""
    passing = error.retryable or isinstance(error, AuthenticationFailed | QuotaExhausted)
    return isinstance(error, RequestRefused) and not passing


def _until_next_look(delay: float, left: float) -> float:
    """A look just after the time of settling decides, so that one is not missed by a long delay."""
    return min(delay, left + 0.01) if left > 0 else delay


async def _undecided(studio: Studio, entry: Entry, reason: str) -> Entry:
    if studio.settings.on_unknown == "resubmit":
        return await studio.ledger.return_to_reserved(entry.id, f"sent again by policy: {reason}")
    message = hold_message(
        HoldReason.SUBMIT_UNANSWERED,
        job=entry.id,
        shot=entry.shot.id,
        ledger=studio.ledger.command_option,
        cause=reason,
    )
    await studio.ledger.flag(entry.id, message)
    raise NeedsAttention(message)
