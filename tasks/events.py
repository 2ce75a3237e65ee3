"""Prefect events about accounts, for automations: unusual volumes, breakers that open and close."""

from __future__ import annotations

from prefect.events import emit_event

from prefect_video.ledger import AccountStatus, Job
from prefect_video.session import SessionEvent


def announce_anomaly(event: SessionEvent, job: Job) -> None:
    """Emit `video.account.anomaly` when an account submits unusually much."""
    if event is SessionEvent.ANOMALY:
        emit_event(
            event="video.account.anomaly",
            resource=_account(job.account),
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


def _account(account: str) -> dict[str, str]:
    return {"prefect.resource.id": f"prefect-video.account.{account}", "prefect.resource.name": account}
