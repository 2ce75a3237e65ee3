"""The job API's service: a request becomes a job of the ledger, submitted in the background and never paid twice."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal

from prefect_video.errors import (
    BudgetExceeded,
    InvalidInput,
    InvalidTransition,
    LedgerError,
    QuotaExhausted,
    VideoError,
)
from prefect_video.ledger import (
    REQUEST_PREFIX,
    UNFINISHED,
    UNSENT,
    BoundKey,
    Choice,
    ClaimOutcome,
    ClaimResult,
    Job,
    JobPosition,
    JobRequest,
    NumberedEntry,
    Priority,
    Requester,
    State,
)
from prefect_video.pipeline import CancelledJob, abandon, cancel_jobs, collect_job
from prefect_video.pipeline.steps import (
    ClaimOptions,
    build_project_job_requests,
    claim_shots,
    find_stored,
    project_budgets,
    screen_prompt,
    submit,
)
from prefect_video.projects import Project
from prefect_video.service.api_tokens import ApiTokens
from prefect_video.service.deployment_queue import DeploymentQueue, QueueUnavailable
from prefect_video.service.galleries import StaleGalleries
from prefect_video.service.jobs.bodies import GenerateBody
from prefect_video.service.jobs.precedence import RequestPrecedence
from prefect_video.service.jobs.views import JobView, SpendView
from prefect_video.service.sessions import Sessions
from prefect_video.session import Session, ref_for_job

logger = logging.getLogger(__name__)

Outcome = Literal["accepted", "joined", "stored"]
"""What a request has led to: a new job, one in progress, or one that is stored already."""

_COLLECTED_AT_ONCE: Final = 4
"""Downloads at once, so that a sweep over many finished jobs leaves the network and the disk to the requests."""
_RESUMED_AT_ONCE: Final = 50
"""Rows of the ledger that are read in one go, which no request can interrupt."""
_ENQUEUED_AT_ONCE: Final = 8
_PRIORITIES: Final[dict[int, Priority]] = {1: "high", 0: "normal", -1: "low"}


class JobService:
    """The job API's operations: create, find and resume jobs.

    Args:
        sessions: The open sessions, one per account.
        collect: Poll for generations that have ended without a webhook, and store their videos.
        queue: Hands jobs to the workers of a deployment; None to send them here.
        ledger_name: How the ledger is found again, as the settings name it; None for the environment's.
        tokens: The clients and their limits, for jobs that an earlier process has accepted.
        galleries: Is notified of collected jobs.
        precedence: Lets requests go before the work that they begin.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        collect: bool = False,
        queue: DeploymentQueue | None = None,
        ledger_name: str | None = None,
        tokens: ApiTokens | None = None,
        galleries: StaleGalleries | None = None,
        precedence: RequestPrecedence | None = None,
    ) -> None:
        self._precedence = precedence or RequestPrecedence()
        self._tokens = tokens or ApiTokens()
        self._galleries = galleries or StaleGalleries()
        self._enqueue_slots = asyncio.Semaphore(_ENQUEUED_AT_ONCE)
        self._sessions = sessions
        self._queue = queue
        self._ledger_name = ledger_name
        self._ledger = sessions.sessions[0].ledger
        self._collect_enabled = collect
        self._collect_slots = asyncio.Semaphore(_COLLECTED_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def environment(self) -> str:
        """The environment whose jobs the service creates."""
        return self._sessions.sessions[0].settings.environment

    async def create(
        self, body: GenerateBody, *, key: str | None = None, requester: Requester | None = None
    ) -> tuple[JobView, Outcome]:
        """Claim the requested video; a new job is submitted in the background.

        Args:
            body: The request.
            key: The client's idempotency key: the same key is never paid for twice, not even after a failure, and
                never stands for another request.
            requester: The client that is charged, whose keys are its own.

        Returns:
            The job and the outcome: `accepted`, `joined` to one in progress, or `stored` already.

        Raises:
            IdempotencyKeyReused: The key was used for another request; nothing was sent.
            InvalidInput: The video cannot be generated; nothing was sent.
            BudgetExceeded: A limit would be exceeded; nothing was sent.
            LedgerError: The ledger cannot be used; nothing was sent, unless only the callback could not be recorded.
            RequestRejected: The provider's endpoint or key is wrong; nothing was sent.
            StoreError: The store cannot be read, or is not the one that the ledger knows; nothing was sent.
        """
        with self._precedence.request():
            return await self._create(body, key, requester)

    async def _create(
        self, body: GenerateBody, key: str | None, requester: Requester | None
    ) -> tuple[JobView, Outcome]:
        session = self.find_session(body.provider)
        project = body.build_project()
        if self._queue is not None and body.take > 1:
            raise InvalidInput("take: a deployment makes all takes of a shot: request a project with `takes`")
        job_request = await _build_job_request(session, project, body.take, key, requester)
        if key is not None:
            # The key is bound before the claim: a second request with it must find the first one, whatever happens
            # next. It belongs to its own account, which another default account must not pay for again.
            run = job_request.flow_run_id
            bound = await self.bind_key(session, key, body.digest, requester, flow_run_id=run)
            if bound.answer is not None:
                await self._resume_unsent(bound.answer)
                await self._request_callback(body, bound.answer, requester)
                return self.build_view(bound.answer), "stored" if bound.answer.state is State.STORED else "joined"
            if bound.account != session.provider.account.id:
                session = self._find_bound_session(bound, key)
                job_request = await _build_job_request(session, project, body.take, key, requester)
        await find_stored(session, [job_request])
        (claim,) = await claim_shots(session, [job_request], budgets=project_budgets(session, project), partial=False)
        job = _require_job(claim)
        if claim.kind is ClaimOutcome.ACQUIRED:
            # Before anything else that could fail: no one else sends a job that this living process owns.
            await self._start(session, job)
        await self._request_callback(body, job, requester)
        outcomes: dict[ClaimOutcome, Outcome] = {ClaimOutcome.ACQUIRED: "accepted", ClaimOutcome.STORED: "stored"}
        return self.build_view(job), outcomes.get(claim.kind, "joined")

    async def bind_key(
        self,
        session: Session,
        key: str,
        digest: str,
        requester: Requester | None,
        *,
        flow_run_id: str | None = None,
    ) -> BoundKey:
        """Bind a key to a request and an account, where it is not bound yet; find the job that it was answered with.

        Raises:
            IdempotencyKeyReused: The key was used for another request.
        """
        return await self._ledger.idempotency.bind_key(
            key,
            digest,
            account=session.provider.account.id,
            environment=self.environment,
            requester=requester.name if requester else "",
            flow_run_id=flow_run_id,
        )

    async def find(self, job_id: str) -> JobView | None:
        """Return a job by its id, None if there is none."""
        job = await self.find_job(job_id)
        return None if job is None else self.build_view(job)

    async def find_job(self, job_id: str) -> Job | None:
        """Return a row of the ledger by its id, None if there is none."""
        jobs = await self._ledger.jobs.get_many([job_id])
        return jobs[0] if jobs else None

    async def page(
        self,
        *,
        limit: int,
        after: JobPosition | None,
        project: str | None = None,
        state: State | None = None,
        shot: str | None = None,
        held: bool | None = None,
        since: datetime | None = None,
    ) -> list[Job]:
        """Read a page of jobs, newest first."""
        return await self._ledger.jobs.page(
            project=project, state=state, shot=shot, hold_reason=held, since=since, after=after, limit=limit
        )

    async def history_after(self, job_id: str, number: int) -> list[NumberedEntry]:
        """Read the lines of a job's history that come after the line with a number."""
        return await self._ledger.jobs.history_after(job_id, number)

    async def cancel(self, job: Job) -> CancelledJob:
        """Cancel a job, at the provider too where it still can; one that has ended stays as it is."""
        (cancelled,) = await cancel_jobs([job], self._open_session)
        if self._queue is None or cancelled.error or cancelled.is_still_running:
            return cancelled
        try:
            # After the job: a flow run that is being created meanwhile is found here, or finds the job cancelled.
            await self._queue.cancel(job.id)
        except QueueUnavailable as trouble:
            error = f"a flow run may make it yet, cancel it again when Prefect answers: {trouble}"
            return cancelled.model_copy(update={"error": error})
        return cancelled

    async def spend(self, requester: Requester) -> SpendView:
        """Sum what a client has committed in this month."""
        limit = Requester(name=requester.name, monthly_usd=requester.monthly_usd or Decimal(0))
        (usage,) = await self._ledger.spend.budget_usage((), project="", account="", requester=limit)
        left = None if requester.monthly_usd is None else max(Decimal(0), requester.monthly_usd - usage.committed_usd)
        return SpendView(
            token=requester.name,
            spent_usd=float(usage.spent_usd),
            reserved_usd=float(usage.reserved_usd),
            videos=usage.videos,
            limit_usd=None if requester.monthly_usd is None else float(requester.monthly_usd),
            left_usd=None if left is None else float(left),
        )

    async def resume(self) -> None:
        """Submit the jobs that a dead process has accepted and not sent; collect those that may have ended since."""
        for session in self._sessions.sessions:
            # Jobs of flows are resumed by `collect`, with the settings of their run.
            jobs, account = session.ledger.jobs, session.provider.account.id
            left = await jobs.find_resumable_requests(account, with_ended=self._collect_enabled)
            for begin in range(0, len(left), _RESUMED_AT_ONCE):
                await self._precedence.wait_until_idle()
                for job in await jobs.get_many(left[begin : begin + _RESUMED_AT_ONCE]):
                    await self._resume_request(session, job)
            if self._queue is not None:
                await self._enqueue_crashed(session, self._queue)

    async def _resume_request(self, session: Session, job: Job) -> None:
        if job.state in UNSENT:
            await self._resume_unsent(job)
        elif self._collect_enabled and job.hold_reason is None and _may_have_ended(job):
            self._start_task(f"collect {job.id}", lambda: self._collect(session, job))

    async def aclose(self) -> None:
        """Cancel the background tasks; jobs that were not sent are sent by the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def find_session(self, name: str | None) -> Session:
        """Return the session of an account; the first one where none is named.

        Raises:
            InvalidInput: The service has no such account.
        """
        if name is None:
            return self._sessions.sessions[0]
        sessions = self._sessions.by_name(name)
        if not sessions:
            raise InvalidInput(f"provider: this service has no account {name!r}")
        return sessions[0]

    def _find_bound_session(self, bound: BoundKey, key: str) -> Session:
        session = self._sessions.by_id(bound.account)
        if session is None:
            raise InvalidInput(
                f"Idempotency-Key {key!r} was first used with account {bound.account!r}, which this service does not"
                " have, and nothing was sent: repeat the request at a service that has it, or give it a new key"
            )
        return session

    async def _start(self, session: Session, job: Job) -> None:
        """Send a claimed job in the background, or hand it to the workers."""
        if self._queue is None:
            self._start_task(f"send {job.id}", lambda: _send(session, job, self._precedence))
            return
        # Without an owner it is the worker's to take over.
        await session.ledger.claims.release_ownership([job.id])
        self._start_enqueuing(session, job)

    def _start_enqueuing(self, session: Session, job: Job) -> None:
        """Hand a job to the workers in the background."""
        self._start_task(f"enqueue {job.id}", lambda: self._enqueue(session, job))

    async def _enqueue(self, session: Session, job: Job) -> None:
        """Hand a reserved job to the workers; end it where its flow run has ended and never took it over."""
        assert self._queue is not None
        if (await session.ledger.jobs.get(job.id)).state not in UNFINISHED:
            return
        token = self._tokens.find(job.requester) if job.requester else None
        project = Project(name=job.project, shots=(job.shot,), max_attempts=1, priority=_PRIORITIES[job.priority])
        requester = token.requester if token else None
        async with self._enqueue_slots:
            run = await self._queue.enqueue(session, project, key=job.id, requester=requester)
        if run is None:
            return
        current = await session.ledger.jobs.get(job.id)
        if current.state in (State.RELEASED, State.CANCELLED) and not run.has_ended:
            # It was cancelled while its flow run was being created.
            with contextlib.suppress(QueueUnavailable):
                await self._queue.cancel(job.id)
        elif run.has_ended and current.state is State.RESERVED and current.is_service_request:
            reason = f"flow run {run.id} ended as {run.state} before it sent the video: see its log in Prefect"
            with contextlib.suppress(InvalidTransition):
                await session.ledger.jobs.release_reservation(job.id, reason)

    async def _enqueue_crashed(self, session: Session, queue: DeploymentQueue) -> None:
        """Hand jobs to the workers again whose flow runs have died with them unfinished."""
        left: dict[str, Job] = {}
        for job in await session.ledger.jobs.unfinished(account=session.provider.account.id):
            is_of_flow = job.requester and job.flow_run_id and not job.is_service_request and not job.hold_reason
            if is_of_flow and not (job.owner and await session.ledger.claims.is_owner_alive(job.owner)):
                left[job.id] = job
        run_ids = {job.flow_run_id: job.id for job in left.values() if job.flow_run_id and _is_flow_run(job)}
        for job_id in await queue.find_crashed(run_ids) if run_ids else ():
            self._start_enqueuing(session, left[job_id])

    async def _request_callback(self, body: GenerateBody, job: Job, requester: Requester | None) -> None:
        if body.callback_url is None or requester is None:
            return
        await self._ledger.callbacks.add(
            "job", job.id, requester=requester.name, url=body.callback_url, environment=self.environment
        )

    @asynccontextmanager
    async def _open_session(self, job: Job) -> AsyncIterator[Session]:
        """Use the open session of a job's account, or open the one that it was made with."""
        session = self._sessions.by_id(job.account)
        if session is not None and session.store_name == job.store:
            yield session
            return
        # Importing Prefect takes seconds, during which the service must answer.
        tasks = await asyncio.to_thread(importlib.import_module, "prefect_video.tasks")
        async with tasks.use_session(ref_for_job(job, self._ledger_name)) as opened:
            yield opened

    def _start_task(self, name: str, begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something in the background, unless it is being done already."""
        if name in self._tasks:
            return
        # The event loop keeps weak references only.
        self._tasks[name] = task = asyncio.create_task(begin(), name=name)
        task.add_done_callback(lambda _: self._tasks.pop(name))

    async def _resume_unsent(self, job: Job) -> None:
        """Submit a job that has no living owner, by its own account only; leave any other as it is."""
        session = self._sessions.by_id(job.account)
        if session is None or job.state not in UNSENT or job.hold_reason:
            return
        if self._queue is not None and job.state is State.RESERVED:
            self._start_enqueuing(session, job)
            return
        if job.owner == session.ledger.owner_id or f"send {job.id}" in self._tasks:
            # It waits in this process for its turn. One whose task has just given it up is left to the next sweep:
            # taken over while that task ends, it would be owned here, and never be sent.
            return
        await self._precedence.wait_until_idle()
        if taken := await session.ledger.claims.take_over(job.id):
            self._start_task(f"send {job.id}", lambda: _send(session, taken, self._precedence))

    async def _collect(self, session: Session, job: Job) -> None:
        """Store the video of a job without a webhook, if its generation has ended."""
        try:
            async with self._collect_slots:
                collected = await collect_job(session, job, wait=False)
            self._galleries.note_collected(session, collected.job)
        except LedgerError as error:
            logger.warning("%s/%s: not collected now, the next sweep tries again: %s", job.project, job.shot.id, error)

    def build_view(self, job: Job, *, choice: Choice | None = None) -> JobView:
        """Build the view of a job, without a link; `choice` is the decision about the takes of its shot."""
        session = self._sessions.by_id(job.account) or self._sessions.sessions[0]
        return JobView.from_job(job, session.provider.capabilities.seconds_per_video_second, choice=choice)


async def _build_job_request(
    session: Session, project: Project, take: int, key: str | None, requester: Requester | None
) -> JobRequest:
    """Build the ledger's request for one take of a project of one shot."""
    own_key = f"{requester.name}/{key}" if requester and key else key
    job_requests = await build_project_job_requests(
        session,
        project,
        ClaimOptions(
            ttl_seconds=session.settings.ttl_seconds,
            flow_run_id=f"{REQUEST_PREFIX}{own_key or uuid.uuid4()}",
            requester=requester,
            idempotency_key=key,
        ),
    )
    return job_requests[take - 1]


async def _send(session: Session, job: Job, precedence: RequestPrecedence) -> None:
    """Submit a job and leave it at the provider; the outcome is in the ledger."""
    failure: VideoError | None = None
    try:
        # No more at once than can be in flight: the others wait here, and cost nothing.
        async with session.in_flight_slots.acquire(job.priority):
            await precedence.wait_until_idle()
            if job.state is State.RESERVED:
                job = await screen_prompt(session, job)
            job = await _submit(session, job)
    except VideoError as error:
        logger.warning("%s/%s: %s", job.project, job.shot.id, error)
        failure = error
        # What was rejected has had a slot.
        session.slot_released.set()
    finally:
        if job.owner is not None:
            # On cancellation too: without an owner the job is resumed at once instead of after the lease has expired.
            try:
                await abandon(session, job.id, failure)
            except LedgerError as error:
                logger.error(
                    "job %s: its ownership cannot be released now, a later heartbeat does: %s",
                    job.id,
                    error,
                )


async def _submit(session: Session, job: Job) -> Job:
    """Submit a job, and leave it once it is accepted; one that an exhausted quota holds back is released."""
    try:
        return await submit(session, job, leave=True)
    except QuotaExhausted as error:
        # Held back by this process or rejected by the provider: the client gets the same answer.
        await session.ledger.jobs.release_reservation(job.id, error)
        raise


def _is_flow_run(job: Job) -> bool:
    """Tell whether a job is recorded under a flow run of Prefect, and not under a run of the service."""
    try:
        return bool(uuid.UUID(job.flow_run_id or ""))
    except ValueError:
        return False


def _may_have_ended(job: Job) -> bool:
    """Check if a job is completed or past its estimated completion."""
    estimate = job.estimated_completion_at
    return job.state is State.COMPLETED or estimate is None or estimate <= datetime.now(UTC)


def _require_job(claim: ClaimResult) -> Job:
    """Return the job of a claim; raise `BudgetExceeded` if it was refused."""
    if claim.kind is ClaimOutcome.OVER_BUDGET or claim.job is None:
        raise BudgetExceeded(f"shot {claim.request.shot.id!r}: {claim.refusal}")
    return claim.job
