"""Prefect events about accounts and budgets, for automations: unusual volumes, breakers, limits nearly used up."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from prefect.events import emit_event

from prefect_video.ledger import AccountStatus, BudgetUsage, Job, KeyUse, describe_nearly_used
from prefect_video.session import SessionEvent

ENVIRONMENT_LABEL: Final = "prefect-video.environment"
"""Label by which an automation is narrowed to one environment."""


def announce_anomaly(event: SessionEvent, job: Job) -> None:
    """Emit `video.account.anomaly` when an account submits unusually much."""
    if event is SessionEvent.ANOMALY:
        emit_event(
            event="video.account.anomaly",
            resource={**_account(job.account), ENVIRONMENT_LABEL: job.environment},
            payload={"provider": job.provider, "project": job.project, "environment": job.environment},
        )


def announce_breaker(status: AccountStatus) -> None:
    """Emit `video.account.breaker.open` or `….closed`."""
    emit_event(
        event=f"video.account.breaker.{status.breaker}",
        resource=_account(status.account),
        payload={
            "failures": status.failures,
            "open_until": status.open_until.isoformat() if status.open_until else None,
        },
    )


def announce_old_key(use: KeyUse) -> None:
    """Emit `video.account.key.old` while a key in use is older than the reminder's days, once a day."""
    emit_event(
        event="video.account.key.old",
        resource=_account(use.account),
        payload={
            "key_fingerprint": use.key_fingerprint,
            "first_used_at": use.first_used_at.isoformat(),
            "days": use.age.days,
        },
    )


def announce_budget(usage: BudgetUsage, environment: str) -> None:
    """Emit `video.budget.nearly-used` when four fifths or more of a limit are spent or reserved."""
    budget = usage.budget
    emit_event(
        event="video.budget.nearly-used",
        resource={
            "prefect.resource.id": f"prefect-video.budget.{usage.name.replace(' ', '.')}",
            "prefect.resource.name": usage.name,
            ENVIRONMENT_LABEL: environment,
        },
        payload={
            "detail": describe_nearly_used(usage),
            "scope": budget.scope,
            "limit_usd": _text(budget.limit_usd),
            "limit_videos": budget.limit_videos,
            "spent_usd": _text(usage.spent_usd),
            "reserved_usd": _text(usage.reserved_usd),
            "videos": usage.videos,
        },
    )


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)


def _account(account: str) -> dict[str, str]:
    return {"prefect.resource.id": f"prefect-video.account.{account}", "prefect.resource.name": account}
