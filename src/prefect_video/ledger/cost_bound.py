"""The bound up to which a reported cost is accepted, and the dispute of a cost beyond it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from prefect_video._amounts import usd
from prefect_video.ledger.hold_reasons import HoldReason, hold_message
from prefect_video.ledger.records import Job


class CostBound(BaseModel):
    """The most that a generation is believed to have cost.

    Attributes:
        max_ratio: As a multiple of its estimate.
        max_unpriced_usd: In USD, where there is no estimate, or one of nothing, to measure it by.
    """

    model_config = ConfigDict(frozen=True)

    max_ratio: Decimal = Field(default=Decimal(10), gt=0)
    max_unpriced_usd: Decimal = Field(default=Decimal(100), ge=0)

    def believes(self, reported_usd: Decimal, estimate_usd: Decimal | None) -> bool:
        """Tell whether a generation may have cost so much."""
        return reported_usd <= (self.max_ratio * estimate_usd if estimate_usd else self.max_unpriced_usd)


DEFAULT_COST_BOUND: Final = CostBound()


def cost_columns(job: Job, reported_usd: Decimal | None, bound: CostBound) -> dict[str, Any]:
    """Return the columns that a reported cost changes; none where no cost is reported.

    A cost beyond the bound is kept apart for a human to settle: until then what was reserved counts, so
    that no slip of a provider's fills a budget.
    """
    if reported_usd is None:
        return {}
    if bound.believes(reported_usd, job.reserved_usd):
        return {"actual_usd": reported_usd, "disputed_usd": None}
    return {"disputed_usd": reported_usd}


def dispute_notice(job: Job, ledger: str | None) -> str | None:
    """Write why a job is held for its cost, with both figures; None when its cost is not disputed.

    Args:
        job: The job.
        ledger: The value of `--ledger` by which commands find it; None where they need none.
    """
    if job.disputed_usd is None:
        return None
    booked = job.actual_usd if job.actual_usd is not None else job.reserved_usd
    return hold_message(
        HoldReason.COST_DISPUTED,
        job=job.id,
        shot=job.shot.id,
        ledger=ledger,
        generation=job.generation_id,
        provider=job.provider,
        reported=usd(job.disputed_usd),
        booked=f"{usd(booked)} is booked" if booked is not None else "nothing is booked, as its price is not known",
    )


def with_dispute(job: Job, hold_reason: str | None, ledger: str | None) -> str | None:
    """Join what a human is to decide about a finished job: what is given, and its cost where that is disputed."""
    notices = [notice for notice in (hold_reason, dispute_notice(job, ledger)) if notice]
    return "\n".join(dict.fromkeys(notices)) or None


def without_dispute(job: Job, ledger: str | None) -> str | None:
    """Return what a human has yet to decide about a job once its cost is settled."""
    lines = (job.hold_reason or "").split("\n")
    # By its first words, not whole: the `--ledger` of the remedy depends on how the ledger was opened.
    notice = dispute_notice(job, ledger)
    first_words = notice.partition(". Look at")[0] if notice else None
    return "\n".join(line for line in lines if not (first_words and line.startswith(first_words))) or None
