"""Gallery of a project: its page and manifest, made again wherever its shots or its film may have changed.

The videos are made and paid by then: a page that cannot be written is logged with the command that makes it, and fails
nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from prefect_video.errors import VideoError
from prefect_video.gallery import PublishedGallery, TakeKey, TakeOutcome, publish_gallery
from prefect_video.ledger import command_line
from prefect_video.pipeline.reports import ProjectReport, ShotReport
from prefect_video.projects import Project
from prefect_video.session import DEFAULT_PROJECT, Session

logger = logging.getLogger(__name__)


async def refresh_gallery(
    session: Session,
    name: str,
    *,
    project: Project | None = None,
    outcomes: Mapping[TakeKey, TakeOutcome] | None = None,
) -> PublishedGallery | None:
    """Publish the page and the manifest of a project where they have changed; arguments as of `publish_gallery`.

    Returns:
        What was published; None where it cannot be written, which is logged and never raised.
    """
    try:
        return await publish_gallery(
            session.ledger, session.store, name, project=project, outcomes=outcomes, only_changes=True
        )
    except Exception as error:
        unexpected = None if isinstance(error, VideoError) else error
        words = ("gallery", name, "--store", session.store_name)
        again = command_line(*words, ledger=session.ledger.command_option)
        logger.warning(
            "%s: its page could not be written: %s. Its videos are stored; make the page again, free, with: %s",
            name,
            str(error).rstrip(". ") or type(error).__name__,
            again,
            exc_info=unexpected,
        )
        return None


async def publish_run(session: Session, project: Project, report: ProjectReport) -> ProjectReport:
    """Publish the gallery of a project whose run has ended; return the report with the page's address."""
    if project.name == DEFAULT_PROJECT and len(project.shots) == 1:
        return await publish_lone_shot(session, report)
    published = await refresh_gallery(session, project.name, project=project, outcomes=_read_outcomes(report.shots))
    return _with_addresses(report, published)


async def publish_lone_shot(session: Session, report: ProjectReport) -> ProjectReport:
    """Publish the gallery of the project that a lone shot was made for; return the report with the page's address.

    The other shots of the project stay as they are: its file is not known here.
    """
    return _with_addresses(
        report, await refresh_gallery(session, report.project, outcomes=_read_outcomes(report.shots))
    )


def _with_addresses(report: ProjectReport, published: PublishedGallery | None) -> ProjectReport:
    if published is None:
        return report
    return report.model_copy(update={"page_uri": published.page_uri, "manifest_uri": published.manifest_uri})


def _read_outcomes(reports: Sequence[ShotReport]) -> dict[TakeKey, TakeOutcome]:
    return dict(map(_read_outcome, reports))


def _read_outcome(report: ShotReport) -> tuple[TakeKey, TakeOutcome]:
    shot_id, _, take = report.id.partition("@")
    chosen = {"chosen": True, "rejected": False}.get(report.choice or "")
    outcome = TakeOutcome(
        report.status, asset=report.asset, error=report.error, degraded=report.degraded, chosen=chosen
    )
    return (shot_id, int(take or 1)), outcome
