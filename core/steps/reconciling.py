"""Reconciling: finding out whether an unanswered submit was accepted, before anything is sent again."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from prefect_video.errors import IllegalTransition, NeedsAttention, ProviderError
from prefect_video.ledger import Entry
from prefect_video.studio import Studio
from prefect_video.waiting.watcher import may_pass

logger = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 1.0
_LOOK_AGAIN_LIMIT_SECONDS = 10.0


async def reconcile(studio: Studio, entry: Entry) -> Entry:
    """Brings an unknown row to submitted (it was accepted) or back to reserved (proven absent).

    Absence is proven by a look at the provider's list that began later than `settle_seconds` after the submit:
    until then the request may still be on its way.

    Raises:
        NeedsAttention: The provider cannot tell, or another account's key sent it; the row is flagged.
        ProviderError: The provider gives no answer; the row stays unknown and can be reconciled later.
    """
    sent_at = entry.sent_at or entry.created_at
    settled_at = sent_at + timedelta(seconds=studio.settings.settle_seconds)
    delay = _LOOK_AGAIN_SECONDS
    while True:
        looked_at = datetime.now(UTC)
        known = await studio.ledger.known_generation_ids(entry.account, since=sent_at - timedelta(hours=1))
        try:
            found = await studio.provider.find(entry.shot, idempotency_key=entry.id, sent_at=sent_at, known_ids=known)
        except NeedsAttention as error:
            return await _undecided(studio, entry, str(error))
        except ProviderError as error:
            if not may_pass(error) or looked_at > settled_at + timedelta(
                seconds=studio.settings.submit_patience_seconds
            ):
                raise
            logger.warning("shot %s: cannot reconcile yet: %s", entry.shot.id, error)
            found = None
            looked_at = sent_at
        if found is not None:
            try:
                entry = await studio.ledger.record_submitted(entry.id, found, detail="reconciled: it was accepted")
            except IllegalTransition:
                # Two rows with the same prompt saw the same generation: the other one has it now.
                current = await studio.ledger.get(entry.id)
                if current.state is not entry.state:
                    return current
                continue
            studio.last_told[found.id] = found
            studio.tell("submitted", entry, "reconciled")
            return entry
        if looked_at >= settled_at:
            if entry.account != studio.provider.account.id:
                return await _undecided(studio, entry, "it was sent with another key, which must be asked")
            return await studio.ledger.return_to_reserved(entry.id, "reconciled: proven absent at the provider")
        await asyncio.sleep(_until_next_look(delay, settled_at))
        delay = min(delay * 1.5, _LOOK_AGAIN_LIMIT_SECONDS)


def _until_next_look(delay: float, settled_at: datetime) -> float:
    """A look just after the time of settling decides, so that one is not missed by a long delay."""
    left = (settled_at - datetime.now(UTC)).total_seconds()
    return min(delay, left + 0.01) if left > 0 else delay


async def _undecided(studio: Studio, entry: Entry, reason: str) -> Entry:
    if studio.settings.on_unknown == "resubmit":
        return await studio.ledger.return_to_reserved(entry.id, f"sent again by policy: {reason}")
    message = (
        f"shot {entry.shot.id!r}: a submit was not answered and {reason}. It is not sent again, as it may have been"
        f" paid. Look at the provider's console, then run: prefect-video resolve {entry.id} --generation ID"
        f" (it was accepted) or --absent (it was not)"
    )
    await studio.ledger.flag(entry.id, message)
    raise NeedsAttention(message)
