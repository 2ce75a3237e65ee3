"""The job API's service: a request becomes a job of the ledger, submitted in the background and never paid twice."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, BaseModel, Field, StringConstraints, ValidationError

from prefect_video.errors import BudgetExceeded, InvalidInput, LedgerError, QuotaExhausted, VideoError
from prefect_video.fingerprints import canonical_json
from prefect_video.frame_sizes import AspectRatio, Resolution
from prefect_video.inputs import Input, WholeNumber
from prefect_video.ledger import BoundKey, ClaimOutcome, ClaimResult, Job, JobRequest, Priority, State
from prefect_video.pipeline import abandon, collect_job
from prefect_video.pipeline.steps import (
    ClaimOptions,
    build_project_job_requests,
    claim_shots,
    find_assets,
    project_budgets,
    screen_prompt,
    submit,
)
from prefect_video.service.galleries import StaleGalleries
from prefect_video.service.sessions import Sessions
from prefect_video.session import DEFAULT_PROJECT, Session
from prefect_video.shots import Duration, Identifier, Options, Project, Prompt, Seed, Shot, slug

logger = logging.getLogger(__name__)

JobStatus = Literal["queued", "processing", "completed", "failed", "cancelled", "held"]

ImageUrl = Annotated[str, StringConstraints(pattern=r"^https://", max_length=4096, strict=True)]
"""URL of an image; no path, as a client must not read the files of the service's machine."""

REQUEST_PREFIX: Final = "request-"
"""The prefix of the run ids of jobs that the API has created."""

_UNSENT: Final = frozenset({State.RESERVED, State.SUBMITTING, State.UNKNOWN})
_COLLECTED_AT_ONCE: Final = 4
"""Downloads at once, so that a sweep over many finished jobs leaves the network and the disk to the requests."""
_STATUSES: Final[dict[State, JobStatus]] = {
    State.RESERVED: "queued",
    State.SUBMITTING: "queued",
    State.UNKNOWN: "queued",
    State.SUBMITTED: "processing",
    State.COMPLETED: "processing",
    State.STORED: "completed",
    State.CANCELLED: "cancelled",
}


class GenerateBody(Input):
    """The body of `POST /generate`: one requested video.

    Attributes:
        prompt: What the video shows.
        duration: Length in whole seconds.
        first_frame: The image with which the video begins; a URL, as files are those of the service's machine.
        last_frame: The image with which it ends; a URL too.
        references: Images of what is to be seen; URLs too.
        audio: Whether the video has sound, where that can be chosen.
        watermark: Whether the provider's visible mark is in the picture, where that can be chosen.
        options: Further input of the provider's model, sent as it is.
        project: The folder in the store and the name in the ledger (`project_id` is accepted too).
        id: The shot's name; by default derived from the prompt.
        take: The number of the take, from 1: each is an independent video of the same shot.
        provider: The account, where the service has several; by default the first.
        priority: The rank among the requests that wait for one of the account's slots.
        user_id: The user on whose behalf the video is requested; stored as a label.
        metadata: Further labels.
    """

    prompt: Prompt
    duration: Duration = 10
    aspect_ratio: AspectRatio = "16:9"
    resolution: Resolution = "1080p"
    model: str = "sora-2"
    seed: Seed | None = None
    negative_prompt: Prompt | None = None
    first_frame: ImageUrl | None = None
    last_frame: ImageUrl | None = None
    references: tuple[ImageUrl, ...] = Field(default=(), max_length=20)
    audio: bool | None = Field(default=None, strict=True)
    watermark: bool | None = Field(default=None, strict=True)
    options: Options = Field(default_factory=dict)
    project: Identifier = Field(default=DEFAULT_PROJECT, validation_alias=AliasChoices("project", "project_id"))
    id: Identifier | None = None
    take: WholeNumber = Field(default=1, ge=1, le=10)
    provider: str | None = None
    priority: Priority = "normal"
    user_id: str | None = Field(default=None, max_length=200)
    metadata: dict[str, str] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The SHA-256 of all fields that differ from their defaults, equal for every spelling of the same request."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json", exclude_defaults=True)).encode()).hexdigest()

    def build_shot(self) -> Shot:
        """Build the requested shot.

        Raises:
            InvalidInput: A field does not fit the others.
        """
        fields = self.model_dump(exclude={"project", "take", "provider", "priority", "user_id", "id"})
        labels = {**self.metadata, **({"user_id": self.user_id} if self.user_id else {})}
        try:
            return Shot(**{**fields, "id": self.id or slug(self.prompt), "takes": self.take, "metadata": labels})
        except ValidationError as error:
            raise InvalidInput("; ".join(fault["msg"] for fault in error.errors(include_input=False))) from error


class JobView(BaseModel):
    """A job as the API shows it.

    Attributes:
        job_id: The id of the job in the ledger.
        status: The state of the request; `held` waits for a decision.
        state: The state in the ledger, which is finer.
        estimated_time: Seconds until the video is expected; None once the job has ended.
        uri: The stored video.
        cost_usd: The cost, or the estimate until it is known; None when both are unknown.
        error: The reason why there is no video or why the job is held, with the next step.
    """

    job_id: str
    status: JobStatus
    state: State
    project: str
    shot: str
    take: int
    generation_id: str | None = None
    estimated_time: float | None = None
    uri: str | None = None
    sha256: str | None = None
    cost_usd: float | None = None
    error: str | None = None

    @classmethod
    def from_job(cls, job: Job, seconds_per_video_second: tuple[float, float]) -> JobView:
        """Build the view of a job."""
        # A stored video may be held for a disputed cost; it can be fetched all the same.
        held = job.hold_reason is not None and job.state is not State.STORED
        status: JobStatus = "held" if held else _STATUSES.get(job.state, "failed")
        waiting = status in ("queued", "processing")
        return cls(
            job_id=job.id,
            status=status,
            state=job.state,
            project=job.project,
            shot=job.shot.id,
            take=job.take,
            generation_id=job.generation_id,
            estimated_time=_estimate_seconds_left(job, seconds_per_video_second) if waiting else None,
            uri=job.asset.uri if job.asset else None,
            sha256=job.asset.sha256 if job.asset else None,
            cost_usd=None if job.cost_usd is None else float(job.cost_usd),
            error=job.hold_reason or job.error_message,
        )


class JobService:
    """The job API's operations: create, find and resume jobs.

    Args:
        sessions: The open sessions, one per account.
        collect: Poll for generations that have ended without a webhook, and store their videos.
        galleries: Is notified of collected jobs.
    """

    def __init__(self, sessions: Sessions, *, collect: bool = False, galleries: StaleGalleries | None = None) -> None:
        self._sessions = sessions
        self._galleries = galleries or StaleGalleries()
        self._collect_enabled = collect
        self._collect_slots = asyncio.Semaphore(_COLLECTED_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def create(self, body: GenerateBody, *, key: str | None = None) -> tuple[JobView, str]:
        """Claim the requested video; a new job is submitted in the background.

        Args:
            body: The request.
            key: The client's idempotency key: the same key is never paid for twice, not even after a failure, and
                never stands for another request.

        Returns:
            The job and the outcome: `accepted`, `joined` to one in progress, or `stored` already.

        Raises:
            IdempotencyKeyReused: The key was used for another request; nothing was sent.
            InvalidInput: The video cannot be generated; nothing was sent.
            BudgetExceeded: A limit would be exceeded; nothing was sent.
            LedgerError: The ledger cannot be used; nothing was sent.
            RequestRejected: The provider's endpoint or key is wrong; nothing was sent.
            StoreError: The store cannot be read, or is not the one that the ledger knows; nothing was sent.
        """
        session = self._find_session(body.provider)
        project = Project(name=body.project, shots=(body.build_shot(),), max_attempts=1, priority=body.priority)
        job_request = await _build_job_request(session, project, body.take, key)
        if key is not None:
            # The key is bound before the claim: a second request with it must find the first one, whatever happens
            # next. It belongs to its own account, which another default account must not pay for again.
            bound = await _bind_key(session, body, key)
            if (answer := await _find_answer(session, bound, key)) is not None:
                await self._resume_unsent(answer)
                return self._build_view(answer), "stored" if answer.state is State.STORED else "joined"
            if bound.account != session.provider.account.id:
                session = self._find_bound_session(bound, key)
                job_request = await _build_job_request(session, project, body.take, key)
        await find_assets(session, [job_request])
        (claim,) = await claim_shots(session, [job_request], budgets=project_budgets(session, project), partial=False)
        job = _require_job(claim)
        if key is not None:
            await session.ledger.idempotency.answer_key(key, job.id, environment=session.settings.environment)
        if claim.kind is ClaimOutcome.ACQUIRED:
            self._start_task(_send(session, job), f"send {job.id}")
        outcome = {ClaimOutcome.ACQUIRED: "accepted", ClaimOutcome.STORED: "stored"}.get(claim.kind, "joined")
        return self._build_view(job), outcome

    async def find(self, job_id: str) -> JobView | None:
        """Return a job by its id, None if there is none."""
        jobs = await self._sessions.sessions[0].ledger.jobs.get_many([job_id])
        return self._build_view(jobs[0]) if jobs else None

    async def resume(self) -> None:
        """Submit the jobs that a dead process has accepted and not sent; collect those that may have ended since."""
        for session in self._sessions.sessions:
            for job in await session.ledger.jobs.unfinished(account=session.provider.account.id):
                # Jobs of flows are resumed by `collect`, with the settings of their run.
                from_api = (job.flow_run_id or "").startswith(REQUEST_PREFIX)
                if not from_api or job.hold_reason:
                    continue
                if job.state in _UNSENT:
                    await self._resume_unsent(job)
                elif self._collect_enabled and _may_have_ended(job):
                    self._start_task(self._collect(session, job), f"collect {job.id}")

    async def aclose(self) -> None:
        """Cancel the background tasks; jobs that were not sent are sent by the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _find_session(self, name: str | None) -> Session:
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

    def _start_task(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        # The event loop keeps weak references only.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resume_unsent(self, job: Job) -> None:
        """Submit a job that has no living owner, by its own account only; leave any other as it is."""
        session = self._sessions.by_id(job.account)
        if session is None or job.state not in _UNSENT or job.hold_reason:
            return
        if taken := await session.ledger.claims.take_over(job.id):
            self._start_task(_send(session, taken), f"send {job.id}")

    async def _collect(self, session: Session, job: Job) -> None:
        """Store the video of a job without a webhook, if its generation has ended."""
        try:
            async with self._collect_slots:
                collected = await collect_job(session, job, wait=False)
            self._galleries.note_collected(session, collected.job)
        except LedgerError as error:
            logger.warning("%s/%s: not collected now, the next sweep tries again: %s", job.project, job.shot.id, error)

    def _build_view(self, job: Job) -> JobView:
        session = self._sessions.by_id(job.account) or self._sessions.sessions[0]
        return JobView.from_job(job, session.provider.capabilities.seconds_per_video_second)


async def _build_job_request(session: Session, project: Project, take: int, key: str | None) -> JobRequest:
    """Build the ledger's request for one take of a project of one shot."""
    job_requests = await build_project_job_requests(
        session,
        project,
        ClaimOptions(
            ttl_seconds=session.settings.ttl_seconds,
            flow_run_id=f"{REQUEST_PREFIX}{key or uuid.uuid4()}",
        ),
    )
    return job_requests[take - 1]


async def _bind_key(session: Session, body: GenerateBody, key: str) -> BoundKey:
    """Bind a key to a request and an account, where it is not bound yet.

    Raises:
        IdempotencyKeyReused: The key was used for another request.
    """
    return await session.ledger.idempotency.bind_key(
        key, body.digest, account=session.provider.account.id, environment=session.settings.environment
    )


async def _find_answer(session: Session, bound: BoundKey, key: str) -> Job | None:
    """Return the job that a key was answered with before; also the one of a process that died before it said so.

    A released job is none: nothing was accepted for it, so that its key may be sent again.
    """
    ledger = session.ledger
    own = await ledger.jobs.find(flow_run_id=f"{REQUEST_PREFIX}{key}", limit=None)
    claimed = [job for job in own if job.environment == session.settings.environment]
    answered = [await ledger.jobs.get(bound.job_id)] if bound.job_id else []
    return next((job for job in (*answered, *claimed) if job.state is not State.RELEASED), None)


async def _send(session: Session, job: Job) -> None:
    """Submit a job and leave it at the provider; the outcome is in the ledger."""
    failure: VideoError | None = None
    try:
        async with session.in_flight_slots.acquire(job.priority):
            if job.state is State.RESERVED:
                job = await screen_prompt(session, job)
            await _submit(session, job)
    except VideoError as error:
        logger.warning("%s/%s: %s", job.project, job.shot.id, error)
        failure = error
    finally:
        # On cancellation too: without an owner the job is resumed at once instead of after the lease has expired.
        try:
            await abandon(session, job.id, failure)
        except LedgerError as error:
            logger.error(
                "job %s: its ownership cannot be released before this process ends: %s",
                job.id,
                error,
            )


async def _submit(session: Session, job: Job) -> None:
    """Submit a job; one that an exhausted quota holds back is released."""
    try:
        await submit(session, job)
    except QuotaExhausted as error:
        # Held back by this process or rejected by the provider: the client gets the same answer.
        await session.ledger.jobs.release_reservation(job.id, error)
        raise


def _may_have_ended(job: Job) -> bool:
    """Check if a job is completed or past its estimated completion."""
    estimate = job.estimated_completion_at
    return job.state is State.COMPLETED or estimate is None or estimate <= datetime.now(UTC)


def _require_job(claim: ClaimResult) -> Job:
    """Return the job of a claim; raise `BudgetExceeded` if it was refused."""
    if claim.kind is ClaimOutcome.OVER_BUDGET or claim.job is None:
        raise BudgetExceeded(f"shot {claim.request.shot.id!r}: {claim.refusal}")
    return claim.job


def _estimate_seconds_left(job: Job, seconds_per_video_second: tuple[float, float]) -> float:
    """Estimate the seconds until a video is expected, by the ledger's estimate or the provider's usual pace."""
    if job.estimated_completion_at is not None:
        return round(max(0.0, (job.estimated_completion_at - datetime.now(UTC)).total_seconds()), 1)
    expected = sum(seconds_per_video_second) / 2 * job.shot.duration
    elapsed = (datetime.now(UTC) - job.submitted_at).total_seconds() if job.submitted_at else 0.0
    return round(max(0.0, expected - elapsed), 1)
