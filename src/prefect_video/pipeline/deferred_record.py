"""Record of a deferred run in the ledger, by which `collect` makes what follows when its last shot is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect_video._shield import shielded
from prefect_video.ledger import DeferredRun
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.projects import Project
from prefect_video.session import Session


@dataclass
class RunEnd:
    """End of a run, for its record.

    Attributes:
        report: The report of the run; None until it has ended.
    """

    report: ProjectReport | None = None


@asynccontextmanager
async def record_deferred(
    sessions: Sequence[Session], project: Project, run_id: str, *, wait: bool
) -> AsyncIterator[RunEnd]:
    """Keep a record of a run that does not wait, from before anything is sent until nothing is left to do.

    A run that is killed leaves its record too. Records of earlier runs about some of the same shots are removed, also
    by a run that waits and makes a film: the project counts as the latest run has it.

    Args:
        sessions: The accounts of the run, the one that makes the shots first.
        project: The project.
        run_id: The run.
        wait: The run waits for its videos, so that it needs no record.
    """
    deferred, end = sessions[0].ledger.deferred, RunEnd()
    if not wait:
        await deferred.begin(_describe(sessions, project, run_id))
    if not wait or project.cut is not None:
        # Without a film an earlier run leaves nothing behind that would be wrong: a run that waits reads nothing more.
        environment = sessions[0].settings.environment
        await deferred.supersede(project, store=sessions[0].store_name, environment=environment, except_for=run_id)
    if wait:
        yield end
        return
    try:
        yield end
    finally:
        is_complete = end.report is not None and not _has_more_to_come(end.report)
        await shielded(deferred.complete(run_id) if is_complete else deferred.release(run_id))


def _describe(sessions: Sequence[Session], project: Project, run_id: str) -> DeferredRun:
    return DeferredRun(
        id=run_id,
        environment=sessions[0].settings.environment,
        project=project,
        credentials=tuple(session.credentials for session in sessions),
        store=sessions[0].store_name,
        created_at=datetime.now(UTC),
    )


def _has_more_to_come(report: ProjectReport) -> bool:
    """Return True where `collect` may have something to do for a run that has left."""
    is_left = any(shot.status in ("in_flight", "waiting", "held") for shot in report.shots)
    return is_left or report.awaits_approval or (report.film is not None and report.film.status == "failed")
