"""Final cut of a project: after a run has stored its shots, or alone, from what is stored."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from prefect_video.assets import Asset
from prefect_video.errors import FilmError, VideoError
from prefect_video.ledger import command_line
from prefect_video.pipeline.late_shots import LateShots
from prefect_video.pipeline.reports import FilmReport, ShotReport
from prefect_video.pipeline.routing import TakeRequest, load_existing, stored_asset
from prefect_video.pipeline.step_runner import StepRunner
from prefect_video.pipeline.steps.cut_film import OnProgress, cut_film, needed_takes, require_cut
from prefect_video.pipeline.steps.job_requests import ClaimOptions
from prefect_video.projects import Project
from prefect_video.session import Session

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
    await require_cut(project, session.settings)
    late, clips = await _find_stored_takes(session, project, others)
    wanted = leave_out(project, late.dropped)
    if absent := _find_absent(wanted, clips):
        raise FilmError(
            f"{len(absent)} of the shots in the cut are not stored, or not chosen: {', '.join(absent)}. Make them"
            " first, with: prefect-video run"
        )
    film, cached = await cut_film(session, wanted, clips, on_progress=on_progress)
    return FilmReport.of(film, cached=cached)


async def _find_stored_takes(
    session: Session, project: Project, others: Sequence[Session]
) -> tuple[LateShots, dict[str, Asset]]:
    """Find the stored takes of a project in the ledger, by a cut's names for them; nothing is claimed or changed."""
    late = LateShots(project, [session, *others], ClaimOptions())
    takes = await late.build_takes()
    await load_stored(late, session, takes)
    named = {f"{take.shot.id}@{take.number}": stored_asset(take) for take in takes}
    chosen = {shot_id: stored_asset(take) for shot_id, take in late.chosen.items()}
    return late, {label: asset for label, asset in {**named, **chosen}.items() if asset is not None}


async def load_stored(late: LateShots, session: Session, takes: Sequence[TakeRequest]) -> None:
    """Load the jobs that exist for takes; those that continue a stored video become known by it."""
    found: Sequence[TakeRequest] = takes
    while found:
        await load_existing(session.ledger, found)
        for take in found:
            take.prefer_existing()
        found = await late.find_known(takes, stored_asset)


def leave_out(project: Project, dropped: Collection[str]) -> Project:
    """Return a project, and its cut, without the shots that were dropped."""
    cut = project.cut
    if cut is None or not dropped:
        return project
    order = None if cut.order is None else tuple(clip for clip in cut.order if clip.shot not in dropped)
    shots = tuple(shot for shot in project.shots if shot.id not in dropped)
    return project.model_copy(update={"shots": shots, "cut": cut.model_copy(update={"order": order})})


def _find_absent(project: Project, clips: Mapping[str, Asset]) -> list[str]:
    """Return the takes that a cut needs and that are not there, by its names for them."""
    assert project.cut is not None
    return [label for label in needed_takes(project, project.cut) if label not in clips]


def _clips_of(reports: Sequence[ShotReport]) -> dict[str, Asset]:
    """Return the stored takes of a run by a cut's names for them: the shot alone stands for its chosen take."""
    named = {f"{report.shot_id}@{report.take}": report.asset for report in reports}
    # Where nothing is chosen among several takes, the first one counts.
    chosen = {
        report.shot_id: report.asset
        for report in reports
        if report.choice == "chosen" or (report.choice is None and report.take == 1)
    }
    return {label: asset for label, asset in {**named, **chosen}.items() if asset is not None}


async def film_of_reports(
    runner: StepRunner, session: Session, project: Project, reports: Sequence[ShotReport]
) -> FilmReport | None:
    """Make the film of a run whose shots have ended; what goes wrong is reported and fails no shot.

    Returns:
        The film's report; None where the project has no cut.
    """
    if project.cut is None:
        return None
    clips = _clips_of(reports)
    wanted = leave_out(project, {report.shot_id for report in reports if report.status == "dropped"})
    again = command_line("cut", "PROJECT_FILE", ledger=session.ledger.command_option)
    if absent := _find_absent(wanted, clips):
        reason = f"{', '.join(absent)} not stored, or not chosen, yet; run again, or make the film later with: {again}"
        return FilmReport(status="waiting", error=reason)
    return await _try_cut(runner, session, wanted, clips, again)


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
