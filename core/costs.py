"""What each shot of a run cost: a generation is paid for by the run that sent it, whatever became of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from prefect_video.errors import LedgerError
from prefect_video.ledger import Entry, Intent, Ledger, State
from prefect_video.reports import ShotReport, label

logger = logging.getLogger(__name__)

_UNPAID: Final = frozenset({State.RESERVED, State.RELEASED})


async def with_costs(
    reports: Sequence[ShotReport], intents: Sequence[Intent], ledger: Ledger, *, flow_run_id: str, since: datetime
) -> tuple[ShotReport, ...]:
    """The reports of a run with what the run paid for each.

    Args:
        reports: One for each intent.
        intents: What the run asked for.
        ledger: Where its generations are.
        flow_run_id: The run. A row that it has taken over is booked under it too, hence `since`.
        since: When it began; what was sent before was paid for by an earlier run.
    """
    if all(report.cached for report in reports):
        return tuple(reports)
    try:
        entries = await ledger.entries(flow_run_id=flow_run_id, limit=None)
    except LedgerError as error:
        logger.warning("what this run paid is not known: %s", error)
        return tuple(one if one.cached else one.model_copy(update={"cost_usd": None}) for one in reports)
    paid = _paid((entry for entry in entries if entry.sent_at and entry.sent_at >= since), intents)
    return tuple(report.model_copy(update={"cost_usd": paid.get(report.id, Decimal(0))}) for report in reports)


def _paid(sent: Iterable[Entry], intents: Sequence[Intent]) -> Mapping[str, Decimal | None]:
    """What was paid for each take, by its label; None where a price is not known."""
    # A row may be named after another shot, which asked for the same video; one of a fallback is named after its own.
    asked = {intent.fingerprint: label(intent) for intent in reversed(intents)}
    paid: dict[str, Decimal | None] = {}
    for entry in sent:
        if entry.state not in _UNPAID:
            name = asked.get(entry.fingerprint) or label(entry)
            cost = entry.cost_usd
            before = paid.get(name, Decimal(0))
            paid[name] = None if cost is None or before is None else before + cost
    return paid
