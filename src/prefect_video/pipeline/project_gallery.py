"""Gallery of a run: its report handed to the manifest and the page of its project."""

from __future__ import annotations

import logging

from prefect_video.errors import VideoError
from prefect_video.gallery import TakeKey, TakeOutcome, publish_gallery
from prefect_video.pipeline.reports import ProjectReport, ShotReport
from prefect_video.session import Session
from prefect_video.shots import Project

logger = logging.getLogger(__name__)


async def publish_run(session: Session, project: Project, report: ProjectReport) -> ProjectReport:
    """Publish the manifest and the page of a project whose run has ended; return the report with the page's address.

    A page that cannot be written is logged: the videos are made and paid by now, and `gallery` makes it again.
    """
    outcomes = dict(map(_read_outcome, report.shots))
    try:
        published = await publish_gallery(
            session.ledger, session.store, project.name, project=project, outcomes=outcomes
        )
    except VideoError as error:
        logger.warning("the page of project %s could not be written: %s", project.name, error)
        return report
    return report.model_copy(update={"page_uri": published.page_uri, "manifest_uri": published.manifest_uri})


async def publish_film_page(session: Session, project: Project) -> None:
    """Publish manifest and page of a project whose film was made alone; what cannot be written is logged."""
    try:
        await publish_gallery(session.ledger, session.store, project.name, project=project)
    except VideoError as error:
        logger.warning("the page of project %s could not be written: %s", project.name, error)


def _read_outcome(report: ShotReport) -> tuple[TakeKey, TakeOutcome]:
    shot_id, _, take = report.id.partition("@")
    chosen = {"chosen": True, "rejected": False}.get(report.choice or "")
    outcome = TakeOutcome(
        report.status, asset=report.asset, error=report.error, degraded=report.degraded, chosen=chosen
    )
    return (shot_id, int(take or 1)), outcome
