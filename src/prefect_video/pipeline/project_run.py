"""Project run: prepare the takes of a project, claim them all at once, run them side by side, report on each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from prefect_video._shield import shielded
from prefect_video.assets import Asset
from prefect_video.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    CircuitOpen,
    QuotaExhausted,
    UnreadableRow,
    VideoError,
)
from prefect_video.ledger import (
    PARTS_PREFIX,
    ClaimOutcome,
    ClaimResult,
    Job,
    JobRequest,
    Requester,
    State,
    StoredMatch,
    is_late,
)
from prefect_video.pipeline.cut import film_of_reports
from prefect_video.pipeline.deferred_record import record_deferred
from prefect_video.pipeline.detach import DetachBarrier, DetachToken
from prefect_video.pipeline.late_shots import LateShots, Obstacle, require_stored
from prefect_video.pipeline.reports import ProjectReport, ShotReport, add_costs, take_label
from prefect_video.pipeline.routing import Candidate, TakeRequest, mark_damaged, prefer_existing, sessions_of
from prefect_video.pipeline.shot_run import DetachedShot, ServedElsewhere, StoredShot, abandon, release_claims, run_shot
from prefect_video.pipeline.step_runner import StepRunner
from prefect_video.pipeline.steps.claim import claim_shot, claim_shots, find_stored, project_budgets
from prefect_video.pipeline.steps.copies import copy_to_project, load_copies
from prefect_video.pipeline.steps.cut_film import require_cut
from prefect_video.pipeline.steps.end import raise_if_ended
from prefect_video.pipeline.steps.job_requests import ClaimOptions
from prefect_video.pipeline.steps.manual_clips import find_clips, store_clip
from prefect_video.pipeline.steps.screen import screen_prompts
from prefect_video.pipeline.stored_matches import StoredMatches
from prefect_video.projects import Project
from prefect_video.session import Session
from prefect_video.shots import Shot, is_web_address

logger = logging.getLogger(__name__)

OnReport = Callable[[ShotReport], None]

FALLBACK_ERRORS: Final = (CircuitOpen, QuotaExhausted, BudgetExceeded)
"""Errors after which the next candidate is tried, where nothing is owed for the first: waiting will not help soon."""


@dataclass
class ProjectRun:
    """A run of a project: `run` reads from top to bottom as prepare, claim, run, report.

    Attributes:
        project: The shots.
        sessions: The accounts that are open, the one that makes the shots first.
        flow_run_id: The run's id, which jobs are recorded under.
        runner: Runs the steps.
        refresh: Buy again what is stored.
        rebuy_missing: Accept the store, although videos are missing or it is another one.
        on_report: Called with the report of each take as it ends.
        wait: Wait for the videos, instead of leaving when all are submitted.
        requester: The client of the service that is charged.
        began_at: When the run began, where other processes have made parts of it.
        is_part: It makes a part of a project for another run, which records what is left to do.
    """

    project: Project
    sessions: Sequence[Session]
    flow_run_id: str
    runner: StepRunner
    refresh: bool = False
    rebuy_missing: bool = False
    on_report: OnReport | None = None
    wait: bool = True
    requester: Requester | None = None
    began_at: datetime | None = None
    is_part: bool = False
    _copies: dict[tuple[str, str], Asset] = field(default_factory=dict, init=False)
    _stored: StoredMatches = field(default_factory=StoredMatches, init=False)
    _screened: set[str] = field(default_factory=set, init=False)
    _refusals: dict[str, Exception] = field(default_factory=dict, init=False)
    _not_started: set[TakeRequest] = field(default_factory=set, init=False)
    _reports_by_shot: dict[str, list[asyncio.Task[ShotReport]]] = field(default_factory=dict, init=False)
    _stored_jobs: dict[str, list[Job]] = field(default_factory=dict, init=False)
    _made_at_once: list[Job] = field(default_factory=list, init=False)
    _new_clips: set[str] = field(default_factory=set, init=False)
    _rejected_keys: dict[int, AuthenticationFailed] = field(default_factory=dict, init=False)
    _late: LateShots = field(init=False)

    def __post_init__(self) -> None:
        options = ClaimOptions(
            refresh=self.refresh,
            ttl_seconds=self.sessions[0].settings.ttl_seconds,
            flow_run_id=self.flow_run_id,
            accepts_store=self.rebuy_missing,
            requester=self.requester,
        )
        self._late = LateShots(self.project, self.sessions, options)

    async def run(self) -> ProjectReport:
        """Prepare, claim, run, report.

        Raises:
            VideoError: The run was refused as a whole; nothing was sent.
        """
        now = datetime.now(UTC)
        began_at = self.began_at or now
        began = time.monotonic() - (now - began_at).total_seconds()
        takes = await self._prepare()
        await self._claim_readable(takes)
        self._not_started = set(takes)
        # What a part leaves to do is recorded by the run that has split the project.
        needs_no_record = self.wait or self.is_part
        try:
            async with record_deferred(self.sessions, self.project, self.flow_run_id, wait=needs_no_record) as end:
                end.report = await self._make(takes, began, began_at)
            return end.report
        finally:
            # Claims that no task has begun with, and thus released: a failure, or a cancellation, came before.
            await shielded(release_claims(self._not_started))

    async def _make(self, takes: Sequence[TakeRequest], began: float, began_at: datetime) -> ProjectReport:
        """Run what was claimed, decide about takes, make the film, and report."""
        reports = await self._run_takes(takes)
        await self._late.choose_best(reports)
        await self._late.ask_for_approval(reports)
        reports = self._late.add_decisions(reports)
        shots = await add_costs(
            reports,
            [take.job_request for take in takes],
            self.sessions[0].ledger,
            flow_run_id=self.flow_run_id,
            since=began_at,
            made_at_once=self._made_at_once,
        )
        film = await film_of_reports(self.runner, self.sessions[0], self.project, shots)
        return ProjectReport(project=self.project.name, shots=shots, seconds=time.monotonic() - began, film=film)

    async def reserve(self) -> None:
        """Prepare and claim, and give up the ownership of what is reserved, so that other runs take it over.

        Raises:
            VideoError: The run was refused as a whole; nothing was sent.
        """
        takes = await self._prepare()
        await self._claim_readable(takes)
        run_id = self.flow_run_id.removeprefix(PARTS_PREFIX)
        try:
            # From before any part sends something: its record outlives the run that splits the project.
            async with record_deferred(self.sessions, self.project, run_id, wait=self.wait):
                pass
        finally:
            await shielded(release_claims(takes))

    async def _prepare(self) -> list[TakeRequest]:
        for session in self.sessions:
            session.ledger.name_accounts(other.account_name for other in self.sessions)
        await require_cut(self.project, self.sessions[0].settings)
        return await self._late.build_takes()

    # Claim

    async def _claim_readable(self, takes: Sequence[TakeRequest]) -> None:
        """Claim everything but the takes whose row in the ledger is damaged: each of these fails alone.

        Raises:
            UnreadableRow: The row is of none of the takes.
        """
        while True:
            try:
                return await self._claim([take for take in takes if take.failure is None])
            except UnreadableRow as error:
                mark_damaged(takes, error)

    async def _claim(self, takes: Sequence[TakeRequest]) -> None:
        """Claim everything, account by account; when the project must fit as a whole and does not, keep nothing.

        Raises:
            BudgetExceeded: It does not fit; nothing was sent.
        """
        bought = [take for take in takes if not take.is_clip]
        try:
            await self._store_clips([take for take in takes if take.is_clip])
            await self._prefer_existing(bought)
            while known := await self._late.find_known(takes, lambda take: self._stored.find_asset(take.job_request)):
                await self._prefer_existing(known, StepRunner())
            blocked = self._late.blocked
            await self._claim_everywhere(
                [take for take in bought if take.failure is None and take.shot.id not in blocked]
            )
            for session in self.sessions:
                self._copies |= await load_copies(session, _claims_at(session, takes))
        except BaseException:
            # Also when cancelled: a reservation that stays counts against the budget.
            await release_claims(takes, reason="the run was refused")
            raise

    async def _store_clips(self, takes: Sequence[TakeRequest]) -> None:
        """Store the clips that were made by hand and are not stored whole yet; before anything is bought.

        Raises:
            InvalidInput: One cannot be used; nothing was sent.
        """
        if not takes:
            return
        session = self.sessions[0]
        requests = [take.job_request for take in takes]
        jobs = await find_clips(session, requests, rebuy_missing=self.rebuy_missing)
        for take, job in zip(takes, jobs, strict=True):
            request = take.job_request
            is_outdated = self.refresh and is_web_address(take.shot.clip or "")
            if job is None or is_outdated:
                job = await store_clip(session, request, take.shot.clip or "")
                self._new_clips.add(job.id)
            take.claim = ClaimResult(kind=ClaimOutcome.STORED, request=request, job=job)
            self._stored.update([request], [StoredMatch(job, is_made_anew=False)])

    async def _prefer_existing(self, takes: Sequence[TakeRequest], runner: StepRunner | None = None) -> None:
        """Let what is stored, in progress or held decide how a take is made, before prices and health do.

        Args:
            takes: The takes; those that are late are left out.
            runner: Runs the search; None for the run's own, which shows it in the orchestrator once.
        """
        takes = [take for take in takes if not take.is_late]
        candidates = [candidate for take in takes for candidate in take.candidates]
        accounts = [session.provider.account for session in self.sessions]
        for session in sessions_of(candidates):
            job_requests = [candidate.job_request for candidate in candidates if candidate.session is session]
            # It also reopens a job whose file is missing or damaged; what it finds whole, no claim asks for again.
            matches = await (runner or self.runner).run_step(
                find_stored, session, job_requests, rebuy_missing=self.rebuy_missing, accounts=accounts
            )
            self._stored.update(job_requests, matches)
        await prefer_existing(self.sessions[0].ledger, takes)

    async def _claim_everywhere(self, takes: Sequence[TakeRequest], *, partial: bool = False) -> None:
        """Claim at each take's account; where another run has begun the take elsewhere since, claim there.

        What has just been found stored whole is what a claim would return.
        """
        answers = {take: self._stored.answer(take.job_request) for take in takes}
        for take, answer in answers.items():
            # A late take keeps the claim of its reservation until there is another.
            take.claim = answer or take.claim
        takes = [take for take, answer in answers.items() if answer is None]
        while takes:
            for session in sessions_of(takes):
                await self._claim_at(session, [take for take in takes if take.session is session], partial)
            takes = [take for take in takes if take.claim and take.claim.kind is ClaimOutcome.ELSEWHERE]
            for take in takes:
                assert take.claim is not None
                take.prefer(take.claim.request)

    async def _claim_at(self, session: Session, takes: Sequence[TakeRequest], partial: bool) -> None:
        partial = partial or self.project.over_budget == "fit" or bool(self.project.fallbacks)
        budgets = project_budgets(session, self.project)
        claims = await claim_shots(session, [take.job_request for take in takes], budgets=budgets, partial=partial)
        for take, claim in zip(takes, claims, strict=True):
            take.claim = claim
        for claim in claims:
            if claim.kind is ClaimOutcome.OVER_BUDGET and not partial:
                raise BudgetExceeded(f"project {self.project.name!r}: {claim.refusal}. Nothing was sent.")

    # Run

    async def _run_takes(self, takes: Sequence[TakeRequest]) -> list[ShotReport]:
        """Run everything that was claimed, side by side; the reports are in the same order."""
        # Every token is registered here, before the first task can run and mark its own as submitted. A late take is
        # not waited for: what it continues is left at the provider too.
        barrier = None if self.wait else DetachBarrier()
        tasks: list[asyncio.Task[ShotReport]] = []
        detached: list[DetachToken] = []
        try:
            for session in sessions_of(takes):
                await self._screen(session, _claims_at(session, takes))
            for take in takes:
                token = barrier.register() if barrier else None
                task = asyncio.create_task(self._run_take(take, token), name=take_label(take.job_request))
                self._reports_by_shot.setdefault(take.shot.id, []).append(task)
                tasks.append(task)
                if token and take.is_late:
                    detached.append(token)
            for token in detached:
                token.mark_submitted()
            return await asyncio.gather(*tasks)
        except BaseException:
            await shielded(self._stop(tasks))
            raise

    async def _screen(self, session: Session, claims: Sequence[ClaimResult]) -> None:
        """Screen the prompts of all reservations of an account at once, before the first one is sent."""
        acquired = [claim.job for claim in claims if claim.kind is ClaimOutcome.ACQUIRED and claim.job]
        reserved = [job for job in acquired if job.state is State.RESERVED and not is_late(job.fingerprint)]
        if not reserved:
            return
        refusals = await self.runner.run_step(screen_prompts, session, reserved)
        self._screened.update(job.id for job in reserved if job.id not in refusals)
        self._refusals |= refusals

    async def _stop(self, tasks: Sequence[asyncio.Task[ShotReport]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_take(self, take: TakeRequest, token: DetachToken | None) -> ShotReport:
        """Run one take; an error becomes its report, so that it fails alone."""
        self._not_started.discard(take)
        name = f"{take.job_request.project}/{take_label(take.job_request)}"
        ledger = take.session.ledger.command_option
        try:
            report = await self._skip(take)
            if report is None:
                try:
                    await self._require_screened(take)
                    await self._begin_from_parent(take)
                    report = await self._try_candidates(take, token)
                except Obstacle as obstacle:
                    report = await self._report_obstacle(take, obstacle)
                except VideoError as error:
                    logger.error("%s: %s", name, error)
                    report = ShotReport.failed(take.job_request, error, ledger=ledger)
                except Exception as error:
                    logger.exception("%s: unexpected error", name)
                    report = ShotReport.failed(take.job_request, error, ledger=ledger)
        except BaseException:
            await shielded(release_claims([take]))
            raise
        finally:
            # Also where it failed: the run must not wait for a shot that will never be submitted.
            if token:
                token.mark_submitted()
        if self.on_report:
            self.on_report(report)
        return report

    async def _skip(self, take: TakeRequest) -> ShotReport | None:
        """Report on a take that is not worth trying; None for one that is."""
        ledger = take.session.ledger.command_option
        if take.failure is not None:
            return ShotReport.failed(take.job_request, take.failure, ledger=ledger)
        try:
            await self._require_dependencies(take.shot)
        except Obstacle as obstacle:
            return await self._report_obstacle(take, obstacle)
        if rejected := self._rejected_keys.get(id(take.session)):
            await release_claims([take], reason="the key was refused")
            return ShotReport.failed(take.job_request, rejected, ledger=ledger)
        return None

    async def _require_screened(self, take: TakeRequest) -> None:
        """Release the reservation of a take whose prompt does not pass the screen, and raise why."""
        job = take.claim.job if take.claim else None
        if job and (refusal := self._refusals.pop(job.id, None)):
            await abandon(take.session, job.id, refusal)
            raise refusal

    async def _report_obstacle(self, take: TakeRequest, obstacle: Obstacle) -> ShotReport:
        await release_claims([take], reason=obstacle.reason)
        ledger = take.session.ledger.command_option
        return ShotReport.failed(take.job_request, VideoError(obstacle.reason), ledger=ledger, status=obstacle.status)

    async def _require_dependencies(self, shot: Shot) -> None:
        """Wait for the shots that a shot depends on; the one that it continues or remixes is waited for apart."""
        if not shot.depends_on:
            return
        needed = [task for shot_id in shot.depends_on for task in self._reports_by_shot.get(shot_id, ())]
        self._late.require_made(shot.depends_on)
        require_stored(await asyncio.gather(*(asyncio.shield(task) for task in needed)))
        self._late.require_approved(shot.depends_on)
        for shot_id in shot.depends_on:
            self.runner.link(shot.id, self._stored_jobs.get(shot_id, ()))

    async def _begin_from_parent(self, take: TakeRequest) -> None:
        """Let a take that continues or remixes another shot begin from its video, and claim it where it is late.

        Raises:
            Obstacle: That shot is not stored, or yet to be chosen.
            VideoError: It cannot be claimed, or not be made from that video; nothing is reserved for it any more.
        """
        parent_id = take.shot.parent
        if parent_id is None:
            return
        if take.claim and take.claim.kind is ClaimOutcome.OVER_BUDGET and not self.project.fallbacks:
            return
        parent = await self._late.wait_for_parent(take.shot, self._reports_by_shot.get(parent_id, ()))
        try:
            if take.is_late:
                await self._claim_late(take, parent)
        except Exception as error:
            await release_claims([take], reason=f"it {take.shot.lineage}, and cannot: {error}")
            raise
        self.runner.link(take.shot.id, self._stored_jobs.get(parent_id, ()))

    async def _claim_late(self, take: TakeRequest, parent: Asset) -> None:
        """Claim a late take within its reservation, now that the video that it continues or remixes is stored.

        Raises:
            GenerationCancelled: The reservation was cancelled in the meantime.
        """
        if take.claim and take.claim.kind is ClaimOutcome.ACQUIRED and take.claim.job:
            reserved = await take.session.ledger.jobs.get(take.claim.job.id)
            # One that was only taken for that of a dead run is made anew, as far as the limits allow.
            if is_late(reserved.fingerprint) and reserved.error_message:
                raise_if_ended(reserved)
        await self._late.make_known(take, parent)
        await self._prefer_existing([take], StepRunner())
        await self._claim_everywhere([take], partial=True)
        self._copies |= await load_copies(take.session, _claims_at(take.session, [take]))

    async def _try_candidates(self, take: TakeRequest, token: DetachToken | None) -> ShotReport:
        """Make a take by its first candidate, and by the next one where the account of the first cannot serve.

        Where another run has begun the take at another of its accounts in the meantime, it is made by that one.
        """
        claim, failure = take.claim, None
        untried = list(take.candidates)
        candidate = untried[0]
        while True:
            session, budgets = candidate.session, project_budgets(candidate.session, self.project)
            try:
                claim = claim or await self._claim_candidate(take, candidate, failure)
                result = await run_shot(
                    session, claim, budgets=budgets, runner=self.runner, screened=self._screened, token=token
                )
                if isinstance(result, StoredShot):
                    self._stored_jobs.setdefault(take.shot.id, []).append(result.job)
                    if result.at_once and candidate is take.candidates[0]:
                        self._made_at_once.append(result.job)
                    await self._late.note_stored(take, result.job)
                return await self._report(session, claim.request, result, take.changes_by(candidate))
            except ServedElsewhere as elsewhere:
                candidate = take.find_candidate(elsewhere.request)
            except AuthenticationFailed as error:
                self._rejected_keys[id(session)] = error
                raise
            except FALLBACK_ERRORS as error:
                untried = [other for other in untried if other is not candidate]
                existing = await self._find_job(candidate)
                if not untried or (existing and existing.state is not State.RESERVED):
                    raise
                # A reservation there is another run's, which will meet the same trouble: join it, wherever it goes.
                candidate, failure = candidate if existing else untried[0], error
            claim = None

    async def _claim_candidate(
        self, take: TakeRequest, candidate: Candidate, failure: VideoError | None
    ) -> ClaimResult:
        """Claim a candidate after the first, and say why it is tried."""
        reason = failure or "another run has begun it there"
        name = f"{self.project.name}/{take_label(candidate.job_request)}"
        logger.warning("%s: %s; %s", name, reason, "; ".join(take.changes_by(candidate)))
        budgets = project_budgets(candidate.session, self.project)
        return await claim_shot(candidate.session, candidate.job_request, budgets=budgets)

    async def _find_job(self, candidate: Candidate) -> Job | None:
        """Return the job of a candidate that failed where there may be something owed for it, or soon be."""
        (job,) = await candidate.session.ledger.jobs.find_existing([candidate.job_request])
        return job

    # Report

    async def _report(
        self, session: Session, job_request: JobRequest, result: StoredShot | DetachedShot, changes: Sequence[str]
    ) -> ShotReport:
        degraded = "; ".join(changes) or None
        if isinstance(result, DetachedShot):
            return ShotReport.in_flight(job_request, result).model_copy(update={"degraded": degraded})
        asset = await self._place_in_project(session, result, job_request)
        if result.job.id in self._new_clips or self._has_made(result.job):
            result = replace(result, cached=False)
        return ShotReport.stored(job_request, result, asset).model_copy(update={"degraded": degraded})

    def _has_made(self, job: Job) -> bool:
        """Tell whether a part of this run, in another process, has made a stored job."""
        if self.began_at is None or job.sent_at is None:
            return False
        return job.flow_run_id == self.flow_run_id and job.sent_at >= self.began_at

    async def _place_in_project(self, session: Session, stored: StoredShot, job_request: JobRequest) -> Asset:
        known = self._copies.get((stored.job.id, job_request.shot.id))
        return known or await copy_to_project(session, stored.job, stored.asset, job_request)


def _claims_at(session: Session, takes: Sequence[TakeRequest]) -> list[ClaimResult]:
    return [take.claim for take in takes if take.claim and take.session is session]
