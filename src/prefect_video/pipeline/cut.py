"""Final cut of a project: after a run has stored its shots, or alone, from what is stored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from prefect_video.assets import Asset
from prefect_video.errors import FilmError, VideoError
from prefect_video.ledger import State, command_line
from prefect_video.pipeline.approval import approve_command, drop_from_project
from prefect_video.pipeline.late_shots import LateShots
from prefect_video.pipeline.reports import FilmReport, ShotReport
from prefect_video.pipeline.routing import load_existing
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
    late = LateShots(project, [session, *others], ClaimOptions())
    clips = await find_stored_takes(late)
    project = late.requested
    assert project.cut is not None
    absent = [label for label in needed_takes(project, project.cut) if label not in clips]
    if pending := [label for label in absent if f"{label}@1" in clips]:
        raise FilmError(f"{', '.join(pending)}: {_undecided(session, project)}")
    if absent:
        raise FilmError(
            f"{len(absent)} of the shots in the cut are not stored: {', '.join(absent)}. Make them first, with:"
            " prefect-video run"
        )
    film, cached = await cut_film(session, project, clips, on_progress=on_progress)
    return FilmReport.of(film, cached=cached)


async def find_stored_takes(late: LateShots) -> dict[str, Asset]:
    """Find the stored takes of a project in the ledger, by a cut's names for them; nothing is claimed or sent."""
    takes = await late.build_takes()
    stored: dict[str, Asset] = {}
    known = [take for take in takes if not take.is_late]
    by_fingerprint: dict[str, Asset] = {}
    while known:
        await load_existing(late.sessions[0].ledger, known)
        for take in known:
            take.prefer_existing()
            job = take.candidates[0].existing
            if job is not None and job.state is State.STORED and job.asset is not None:
                stored[f"{take.shot.id}@{take.number}"] = by_fingerprint[take.job_request.fingerprint] = job.asset
        # What continues a shot is known by the video that it continues.
        known = await late.find_known(takes, by_fingerprint.get)
    return label_clips(stored, {shot.id: late.number_of_chosen(shot.id) for shot in late.requested.shots})


def label_clips(takes: Mapping[str, Asset], chosen: Mapping[str, int | None]) -> dict[str, Asset]:
    """Return stored takes by the names that a cut has for them: the shot alone stands for its chosen take.

    Args:
        takes: The stored takes by shot and number, as `opening@1`.
        chosen: The number of the take of each shot that counts; None where that is yet to be decided.
    """
    alone = {shot_id: takes[label] for shot_id, take in chosen.items() if (label := f"{shot_id}@{take}") in takes}
    return {**takes, **alone}


def _undecided(session: Session, project: Project) -> str:
    return f"waiting for approval: {approve_command(session.ledger, project.name)}"


async def film_of_reports(
    runner: StepRunner, session: Session, project: Project, reports: Sequence[ShotReport]
) -> FilmReport | None:
    """Make the film of a run whose shots have ended; what goes wrong is reported and fails no shot.

    Returns:
        The film's report; None where the project has no cut.
    """
    if project.cut is None:
        return None
    project = drop_from_project(project, {report.shot_id for report in reports if report.status == "dropped"})
    if project.cut is None or not project.shots:
        return None
    stored = {f"{report.shot_id}@{report.take}": report.asset for report in reports if report.asset is not None}
    clips = label_clips(stored, _find_chosen(reports))
    needed = needed_takes(project, project.cut)
    pending = {report.shot_id for report in reports if report.choice == "pending"} & set(needed)
    again = command_line("cut", "PROJECT_FILE", ledger=session.ledger.command_option)
    if pending:
        return FilmReport(status="waiting", error=f"{', '.join(sorted(pending))}: {_undecided(session, project)}")
    if absent := [label for label in needed if label not in clips]:
        reason = f"{', '.join(absent)} not stored yet; run again, or once they are, make the film with: {again}"
        return FilmReport(status="waiting", error=reason)
    return await _try_cut(runner, session, project, clips, again)


def _find_chosen(reports: Sequence[ShotReport]) -> dict[str, int | None]:
    """Return the number of the take of each shot that counts, in a run whose shots have ended."""
    chosen: dict[str, int | None] = {}
    for report in reports:
        if report.choice is None:
            chosen.setdefault(report.shot_id, 1)
        else:
            chosen[report.shot_id] = report.take if report.choice == "chosen" else chosen.get(report.shot_id)
    return chosen


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
