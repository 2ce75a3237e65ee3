"""Completion of deferred runs: what follows when the last shot of a run that did not wait is stored.

The film, the page and the report are made once, by the collection that finds nothing in progress any more; one that
dies meanwhile leaves them to the next one. Nothing is sent or paid from here: a shot that is yet to be submitted, as
it continues one that is stored only now, waits for the next run of the project.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from prefect_video._shield import shielded
from prefect_video.errors import HeldForReview, VideoError
from prefect_video.ledger import UNFINISHED, DeferredRun, Job, Ledger, State
from prefect_video.pipeline.cut import film_of_reports, load_stored
from prefect_video.pipeline.late_shots import LateShots
from prefect_video.pipeline.project_gallery import publish_run
from prefect_video.pipeline.reports import ProjectReport, ShotReport, add_costs
from prefect_video.pipeline.routing import TakeRequest
from prefect_video.pipeline.shot_run import DetachedShot, StoredShot
from prefect_video.pipeline.step_runner import StepRunner
from prefect_video.pipeline.steps.copies import copy_to_project
from prefect_video.pipeline.steps.end import error_of
from prefect_video.pipeline.steps.job_requests import ClaimOptions
from prefect_video.session import NamedSessionOpener, Session

logger = logging.getLogger(__name__)

KEPT: Final = timedelta(days=30)
"""Age at which a run that cannot be completed is given up; `run` and `cut` make its film at any time."""


_FAILED: Final = frozenset({"failed", "cancelled", "skipped", "dropped"})


@dataclass(frozen=True)
class DeferredOutcome:
    """Outcome of a deferred run of which nothing is in progress any more.

    Attributes:
        run: The run.
        report: Its report, as a run that waits would give it.
        session: The session of its store, which is open while the outcome is reported.
        is_news: False where the same was reported before.
    """

    run: DeferredRun
    report: ProjectReport
    session: Session
    is_news: bool

    @property
    def status(self) -> str:
        """`waiting` for another run or an approval, `failed`, or `completed`."""
        return "waiting" if _waits(self.report) else "failed" if self.report.has_failed else "completed"


OnDeferredOutcome = Callable[[DeferredOutcome], Awaitable[None]]
"""Reports an outcome; where it raises, the next collection reports it again."""


async def complete_runs(
    ledger: Ledger,
    open_session: NamedSessionOpener,
    *,
    project: str | None = None,
    run_id: str | None = None,
    on_outcome: OnDeferredOutcome | None = None,
) -> set[tuple[str, str]]:
    """Make film, page and report of each deferred run of which nothing is in progress; each is made by one process.

    Args:
        ledger: The ledger.
        open_session: Opens the sessions of a run.
        project: Only runs of this project.
        run_id: Only this run.
        on_outcome: Called with each outcome before its run counts as complete.

    Returns:
        The names of store and project of each page that was made.

    Raises:
        LedgerError: The ledger cannot be used.
    """
    published: set[tuple[str, str]] = set()
    for run in await ledger.deferred.find(project=project, run_id=run_id):
        if await _is_in_progress(ledger, run) or not await ledger.deferred.take(run):
            continue
        reported: str | None = None
        try:
            outcome, reported = await _complete(run, open_session, on_outcome)
            if outcome is not None:
                published.add((run.store, run.project.name))
            if (outcome is not None and not _is_left_open(outcome)) or run.created_at < datetime.now(UTC) - KEPT:
                await ledger.deferred.complete(run.id)
        except Exception as error:
            # The videos are collected: what follows them must not end the collection of other projects.
            unexpected = None if isinstance(error, VideoError) else error
            logger.error("%s: not completed now: %s", run.project.name, error, exc_info=unexpected)
        finally:
            await shielded(ledger.deferred.release(run.id, reported=reported))
    return published


async def _is_in_progress(ledger: Ledger, run: DeferredRun) -> bool:
    """Return True where a shot of a run is at the provider, or held for a human."""
    shots = {shot.id for shot in run.project.shots}
    unfinished = await ledger.jobs.unfinished(project=run.project.name, environment=run.environment)
    return any(job.shot.id in shots for job in unfinished)


@dataclass(frozen=True)
class _Names:
    credentials: str
    store: str


async def _complete(
    run: DeferredRun, open_session: NamedSessionOpener, on_outcome: OnDeferredOutcome | None
) -> tuple[DeferredOutcome | None, str | None]:
    """Make what follows a run, and report it; return the outcome, if it has one now, and its digest."""
    async with AsyncExitStack() as stack:
        names = [_Names(credentials, run.store) for credentials in run.credentials]
        sessions = [await stack.enter_async_context(open_session(name)) for name in names]
        session = sessions[0]
        if session.settings.environment != run.environment:
            logger.info("%s: left to a collection in environment %s", run.project.name, run.environment)
            return None, None
        report = await _Completion(run, sessions).make()
        if any(shot.status in ("in_flight", "held") for shot in report.shots):
            return None, None
        report = await publish_run(session, run.project, report)
        digest = _digest(report)
        outcome = DeferredOutcome(run, report, session, is_news=digest != run.reported)
        if on_outcome is not None:
            await on_outcome(outcome)
        return outcome, digest


def _waits(report: ProjectReport) -> bool:
    return report.awaits_approval or any(shot.status == "waiting" for shot in report.shots)


def _is_left_open(outcome: DeferredOutcome) -> bool:
    """Return True where a later collection may have more to do: after an approval, or where the film failed."""
    film = outcome.report.film
    return _waits(outcome.report) or (film is not None and film.status == "failed")


def _digest(report: ProjectReport) -> str:
    """Return a digest of what a report says, without what differs each time."""
    outcomes = [(shot.id, shot.status, shot.choice, shot.sha256) for shot in report.shots]
    film = (report.film.status, report.film.sha256, report.film.error) if report.film else None
    return hashlib.sha256(repr((outcomes, film)).encode()).hexdigest()


class _Completion:
    """Report and film of one deferred run, from what the ledger holds.

    Args:
        run: The run.
        sessions: Its accounts, the one that makes the shots first.
    """

    def __init__(self, run: DeferredRun, sessions: Sequence[Session]) -> None:
        self._run = run
        self._session = sessions[0]
        self._late = LateShots(run.project, sessions, ClaimOptions(flow_run_id=run.id))

    async def make(self) -> ProjectReport:
        """Make decisions, requests for approval and the film as the end of a run does."""
        began = time.monotonic()
        takes = await self._late.build_takes()
        reports = await self._report_and_choose(takes)
        await self._late.ask_for_approval(reports)
        shots = await add_costs(
            self._late.add_decisions(reports),
            [take.job_request for take in takes],
            self._session.ledger,
            flow_run_id=self._run.id,
            since=self._run.created_at,
        )
        film = await film_of_reports(StepRunner(), self._session, self._run.project, shots)
        return ProjectReport(project=self._run.project.name, shots=shots, seconds=time.monotonic() - began, film=film)

    async def _report_and_choose(self, takes: Sequence[TakeRequest]) -> list[ShotReport]:
        """Report on all takes; a choice that is made now lets takes that continue a shot be found, so again then."""
        while True:
            await load_stored(self._late, self._session, takes)
            chosen = set(self._late.chosen)
            reports = await self._report(takes)
            await self._late.choose_best(reports)
            if set(self._late.chosen) == chosen:
                return reports

    async def _report(self, takes: Sequence[TakeRequest]) -> list[ShotReport]:
        ended = await self._find_ended(takes)
        existing = [take.candidates[0].existing for take in takes]
        stored = [(take, job) for take, job in zip(takes, existing, strict=True) if job and job.state is State.STORED]
        for take, job in sorted(stored, key=lambda pair: pair[1].stored_at or pair[1].created_at):
            await self._late.note_stored(take, job)
        reports = [
            await self._report_take(take, known, ended.get(_key(take)))
            for take, known in zip(takes, existing, strict=True)
        ]
        return self._skip_dependents(takes, reports)

    async def _find_ended(self, takes: Sequence[TakeRequest]) -> Mapping[tuple[str, int], Job]:
        """Find the newest job of each take of the run that ended without a video."""
        jobs = await self._session.ledger.jobs.find(project=self._run.project.name, limit=None)
        wanted = {(candidate.job_request.fingerprint, take.number) for take in takes for candidate in take.candidates}
        return {
            (job.shot.id, job.take): job
            for job in reversed(jobs)
            if (job.fingerprint, job.take) in wanted and job.state not in (*UNFINISHED, State.STORED, State.RELEASED)
        }

    async def _report_take(self, take: TakeRequest, job: Job | None, ended: Job | None) -> ShotReport:
        request, ledger = take.job_request, self._session.ledger.command_option
        if take.failure is not None:
            return ShotReport.failed(request, take.failure, ledger=ledger)
        if job is not None and job.state is State.STORED and job.asset is not None:
            asset = await copy_to_project(take.session, job, job.asset, request)
            return ShotReport.stored(request, StoredShot(asset, job, cached=job.flow_run_id != self._run.id), asset)
        if job is not None and job.hold_reason:
            return ShotReport.failed(request, HeldForReview(job.hold_reason), ledger=ledger, status="held")
        if job is not None:
            return ShotReport.in_flight(request, DetachedShot(job))
        if ended is not None:
            message = f"shot {take.shot.id!r}: {ended.error_message or ended.state}"
            error = error_of(ended)(message, provider=ended.provider, generation_id=ended.generation_id)
            return ShotReport.failed(request, error, ledger=ledger)
        shot = take.shot
        cause = f"it {shot.lineage} and was not submitted yet" if shot.parent else "it was not submitted"
        reason = f"{cause}: run the project again, which submits it"
        return ShotReport.failed(request, VideoError(reason), ledger=ledger, status="waiting")

    def _skip_dependents(self, takes: Sequence[TakeRequest], reports: list[ShotReport]) -> list[ShotReport]:
        """Report what depends on a shot that failed, or was dropped, as skipped."""
        while True:
            bad = {report.shot_id for report in reports if report.status in _FAILED} | self._late.dropped
            for number, (take, report) in enumerate(zip(takes, reports, strict=True)):
                cause = next((shot for shot in take.shot.needs if shot in bad), None)
                if report.status == "waiting" and cause is not None:
                    error = f"it depends on {cause!r}, which has no video"
                    reports[number] = report.model_copy(update={"status": "skipped", "error": error})
            if bad == {report.shot_id for report in reports if report.status in _FAILED} | self._late.dropped:
                return reports


def _key(take: TakeRequest) -> tuple[str, int]:
    return take.shot.id, take.number
