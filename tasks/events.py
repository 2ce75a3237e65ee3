"""Prefect events for automations: unusual volumes, breakers, limits nearly used up, deferred projects that are done."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Final

from prefect.events import emit_event

from prefect_video.ledger import AccountStatus, BudgetUsage, Job, KeyUse, describe_nearly_used
from prefect_video.pipeline import DeferredOutcome
from prefect_video.session import SessionEvent

ENVIRONMENT_LABEL: Final = "prefect-video.environment"
"""Label by which an automation is narrowed to one environment."""

_PROJECT_EVENTS: Final = uuid.UUID("c1f1c0de-3a0e-4f7e-8f6b-6a0f2f6d9b52")


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


def announce_project(outcome: DeferredOutcome) -> None:
    """Emit `video.project.completed`, `….failed` or `….waiting` for a run that did not wait for its videos.

    The event's id is derived from the run and what is reported: emitted again after a crash, it is the same event.
    """
    run, report, film = outcome.run, outcome.report, outcome.report.film
    shots = [(shot.id, shot.status, shot.choice) for shot in report.shots]
    emit_event(
        event=f"video.project.{outcome.status}",
        id=uuid.uuid5(_PROJECT_EVENTS, f"{run.id}\n{outcome.status}\n{shots}"),
        resource={
            "prefect.resource.id": f"prefect-video.project.{run.project.name}",
            "prefect.resource.name": run.project.name,
            ENVIRONMENT_LABEL: run.environment,
        },
        payload={
            "detail": report.summary(),
            "run": run.id,
            "stored": sum(shot.status == "stored" for shot in report.shots),
            "shots": len(report.shots),
            "cost_usd": _text(report.cost_usd),
            "film": film.uri if film else None,
            "page": report.page_uri,
        },
    )


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)


def _account(account: str) -> dict[str, str]:
    return {"prefect.resource.id": f"prefect-video.account.{account}", "prefect.resource.name": account}
