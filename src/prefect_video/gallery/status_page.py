"""Status page: what the service shows of money, work and health, as one page of the gallery's family."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict

from prefect_video.gallery.page import render


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class AccountLine(_Record):
    """An account: its plan, its queue, its health.

    Attributes:
        name: Name by which commands open it.
        health: Its health in words.
        breaker: State of the circuit breaker.
        quota_until: Until when the provider says that the quota is used up.
        occupied: Generations that the provider may be working on.
        slots: Most of them at once; None for no limit that is known.
        queued: Jobs that wait, by priority: high, normal, low.
        used_videos: Generations of this month.
        monthly_videos: What the plan allows in a month.
        left_videos: What is left of it.
    """

    name: str
    health: str
    breaker: Literal["closed", "open", "half_open"]
    quota_until: datetime | None
    occupied: int
    slots: int | None
    queued: tuple[int, int, int]
    used_videos: int
    monthly_videos: int | None
    left_videos: int | None


class LimitLine(_Record):
    """A budget and its use.

    Attributes:
        name: What messages call it.
        spent: What is spent, in words.
        reserved: What is reserved, in words.
        committed_usd: The sum of both, as far as prices are known.
        limit_usd: The limit; None for none in money.
    """

    name: str
    spent: str
    reserved: str
    committed_usd: Decimal
    limit_usd: Decimal | None


class JobLine(_Record):
    """A job that the page lists.

    Attributes:
        id: Its id.
        project: Its project.
        shot: Its shot.
        detail: Why it is held, with the next step; or how its video differs from the request.
    """

    id: str
    project: str
    shot: str
    detail: str


class ServiceStatus(_Record):
    """The state of a service at a moment.

    Attributes:
        made_at: The moment.
        version: Version of the package.
        today: What was spent today (UTC), in words.
        month: What was spent in this month (UTC), in words.
        reserved: What is reserved, in words.
        webhook_lag_seconds: Age of the oldest webhook event that is not handled; None without one.
        accounts: The accounts that are served.
        states: Number of jobs by state, without those that are 0.
        limits: The budgets of the ledger, and those of tokens.
        held: The newest jobs that wait for a decision.
        has_more_held: There are more of them.
        degraded: The newest videos of this month that were made otherwise than requested.
        has_more_degraded: There are more of them.
    """

    made_at: datetime
    version: str
    today: str
    month: str
    reserved: str
    webhook_lag_seconds: float | None
    accounts: tuple[AccountLine, ...]
    states: Mapping[str, int]
    limits: tuple[LimitLine, ...]
    held: tuple[JobLine, ...]
    has_more_held: bool
    degraded: tuple[JobLine, ...]
    has_more_degraded: bool


def render_status(status: ServiceStatus) -> bytes:
    """Render the page: it loads nothing, and everything in it is escaped."""
    return render("status.html", status=status)
