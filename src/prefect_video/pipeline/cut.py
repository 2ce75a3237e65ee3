"""Final cut of a project: after a run has stored its shots, or alone, from what is stored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from prefect_video.assets import Asset
from prefect_video.errors import FilmError, VideoError
from prefect_video.ledger import State, command_line
from prefect_video.pipeline.reports import FilmReport, ShotReport, take_label
from prefect_video.pipeline.routing import build_take_requests, load_existing
from prefect_video.pipeline.step_runner import StepRunner
from prefect_video.pipeline.steps.cut_film import OnProgress, cut_film, needed_takes, require_cut
from prefect_video.pipeline.steps.job_requests import ClaimOptions
from prefect_video.session import Session
from prefect_video.shots import Project

logger = logging.getLogger(__name__)


async def cut_project(
    session: Session, project: Project, *, others: Sequence[Session] = (), on_progress: OnProgress | None = None
) -> FilmReport:
    """Make the film of a project from what is stored; no shot is touched and nothing is sent or paid.

    Args:
        session: The account that makes the shots, with ledger and store.
        project: The project, with its cut.
        others: Further accounts, with the same ledger and store.
        on_progress: Called from a thread with the share that is done.

    Raises:
        InvalidInput: The cut cannot be made: a file is missing, for example.
        FilmError: Shots are not stored; the message lists them. Or the film cannot be made.
        LedgerError: The ledger cannot be read.
        StoreError: The store cannot be read or written.
    """
    if project.cut is None:
        raise FilmError(f"project {project.name!r} has no `cut:`; see `prefect-video schema`")
    await require_cut(project)
    clips = await find_stored_takes(session, project, others)
    if absent := [label for label in needed_takes(project, project.cut) if label not in clips]:
        raise FilmError(
            f"{len(absent)} of the shots in the cut are not stored: {', '.join(absent)}. Make them first, with:"
            " prefect-video run"
        )
    film, cached = await cut_film(session, project, clips, on_progress=on_progress)
    return FilmReport.of(film, cached=cached)


async def find_stored_takes(session: Session, project: Project, others: Sequence[Session] = ()) -> dict[str, Asset]:
    """Find the stored takes of a project in the ledger, by a cut's names for them; nothing is claimed or changed."""
    takes = await build_take_requests(project, [session, *others], ClaimOptions())
    await load_existing(session.ledger, takes)
    stored: dict[str, Asset] = {}
    for take in takes:
        take.prefer_existing()
        job = take.candidates[0].existing
        if job is not None and job.state is State.STORED and job.asset is not None:
            stored[take_label(take.job_request)] = job.asset
    return label_clips(stored)


def label_clips(takes: Mapping[str, Asset]) -> dict[str, Asset]:
    """Return stored takes by the names that a cut has for them: the shot alone stands for its chosen take.

    Args:
        takes: The stored takes, as reports name them: the first by its shot alone, others as `opening@2`.
    """
    named = {label if "@" in label else f"{label}@1": asset for label, asset in takes.items()}
    # The first take is the chosen one where a shot has no other choice.
    chosen = {label: asset for label, asset in takes.items() if "@" not in label}
    return {**named, **chosen}


async def film_of_reports(
    runner: StepRunner, session: Session, project: Project, reports: Sequence[ShotReport]
) -> FilmReport | None:
    """Make the film of a run whose shots have ended; what goes wrong is reported and fails no shot.

    Returns:
        The film's report; None where the project has no cut.
    """
    if project.cut is None:
        return None
    clips = label_clips({report.id: report.asset for report in reports if report.asset is not None})
    again = command_line("cut", "PROJECT_FILE", ledger=session.ledger.command_option)
    if absent := [label for label in needed_takes(project, project.cut) if label not in clips]:
        reason = f"{', '.join(absent)} not stored yet; run again, or once they are, make the film with: {again}"
        return FilmReport(status="waiting", error=reason)
    return await _try_cut(runner, session, project, clips, again)


async def _try_cut(
    runner: StepRunner, session: Session, project: Project, clips: Mapping[str, Asset], again: str
) -> FilmReport:
    try:
        film, cached = await runner.run_step(cut_film, session, project, clips)
    except VideoError as error:
        logger.error("%s: film: %s", project.name, error)
        cause = str(error)
    except Exception as error:
        logger.exception("%s: film: unexpected error", project.name)
        cause = str(error) or type(error).__name__
    else:
        return FilmReport.of(film, cached=cached)
    reason = f"{cause.rstrip('. ')}. The shots are stored: make the film again, free, with: {again}"
    return FilmReport(status="failed", error=reason)
