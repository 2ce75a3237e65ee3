"""The job API's work: a request becomes a row of the ledger, and is sent in the background; it is never paid twice."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, Final, Literal

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from prefect_video.errors import BudgetExceeded, InvalidInput, LedgerError, QuotaExhausted, VideoError
from prefect_video.fingerprints import canonical_json
from prefect_video.inputs import Input, WholeNumber
from prefect_video.ledger import UNFINISHED, ClaimOutcome, ClaimResult, Job, JobRequest, Priority, State
from prefect_video.pipeline import abandon, collect_job
from prefect_video.pipeline.steps import (
    ClaimOptions,
    build_project_intents,
    claim_shots,
    find_assets,
    project_budgets,
    screen_prompt,
    submit,
)
from prefect_video.service.sessions import Sessions
from prefect_video.session import DEFAULT_PROJECT, Session
from prefect_video.shots import AspectRatio, Duration, Identifier, Project, Prompt, Resolution, Seed, Shot, slug

logger = logging.getLogger(__name__)

JobStatus = Literal["queued", "processing", "completed", "failed", "cancelled", "held"]

REQUEST_PREFIX: Final = "request-"
"""How the run ids of rows begin that were asked for here."""

_UNSENT: Final = frozenset({State.RESERVED, State.SUBMITTING, State.UNKNOWN})
_COLLECTED_AT_ONCE: Final = 4
_STATUSES: Final[dict[State, JobStatus]] = {
    State.RESERVED: "queued",
    State.SUBMITTING: "queued",
    State.UNKNOWN: "queued",
    State.SUBMITTED: "processing",
    State.COMPLETED: "processing",
    State.STORED: "completed",
    State.CANCELLED: "cancelled",
}


class GenerationRequest(Input):
    """One video that is wanted.

    Attributes:
        prompt: What is to be seen.
        duration: Length in whole seconds.
        project: The folder in the store and the name in the books (`project_id` is understood too).
        id: The shot's name; by default made from the prompt.
        take: Which of several independent videos of the same shot.
        provider: The account, where the service has several.
        priority: Who goes first when the account's slots are taken.
        user_id: Whoever asked; sent along as a label.
    """

    prompt: Prompt
    duration: Duration = 10
    aspect_ratio: AspectRatio = "16:9"
    resolution: Resolution = "1080p"
    model: str = "sora-2"
    seed: Seed | None = None
    negative_prompt: Prompt | None = None
    project: Identifier = Field(default=DEFAULT_PROJECT, validation_alias=AliasChoices("project", "project_id"))
    id: Identifier | None = None
    take: WholeNumber = Field(default=1, ge=1, le=10)
    provider: str | None = None
    priority: Priority = "normal"
    user_id: str | None = Field(default=None, max_length=200)
    metadata: dict[str, str] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What tells this request from others, however it is spelled: SHA-256 of all that it gives."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json", exclude_defaults=True)).encode()).hexdigest()

    def shot(self) -> Shot:
        """The shot that is asked for.

        Raises:
            InvalidInput: There is no such shot.
        """
        own = self.model_dump(exclude={"project", "take", "provider", "priority", "user_id", "id"})
        labels = {**self.metadata, **({"user_id": self.user_id} if self.user_id else {})}
        try:
            return Shot(**{**own, "id": self.id or slug(self.prompt), "takes": self.take, "metadata": labels})
        except ValidationError as error:
            raise InvalidInput("; ".join(fault["msg"] for fault in error.errors(include_input=False))) from error


class JobView(BaseModel):
    """Where a request stands.

    Attributes:
        job_id: The ledger row's id.
        status: `held` waits for a human.
        state: The same in the ledger's word.
        estimated_time: Seconds until it should be there; None when it is, or never will be.
        uri: Where the video is.
        cost_usd: What it cost, or is expected to; None when unknown.
        error: Why there is no video, or what a human is to decide, and what to do.
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
    def of(cls, job: Job, seconds_per_video_second: tuple[float, float]) -> JobView:
        """The job of a row."""
        # A stored video may still be held for its cost: it can be had all the same.
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
            estimated_time=_seconds_left(job, seconds_per_video_second) if waiting else None,
            uri=job.asset.uri if job.asset else None,
            sha256=job.asset.sha256 if job.asset else None,
            cost_usd=None if job.cost_usd is None else float(job.cost_usd),
            error=job.hold_reason or job.error_message,
        )


class JobService:
    """Takes requests, sends them one after the other, and knows where they stand.

    Args:
        accounts: Who makes the videos.
        collect: Whether to look for ends that no webhook has told of, and to store those videos.
    """

    def __init__(self, accounts: Sessions, *, collect: bool = False) -> None:
        self._accounts = accounts
        self._collects = collect
        self._collecting = asyncio.Semaphore(_COLLECTED_AT_ONCE)
        self._working: set[asyncio.Task[None]] = set()

    async def create(self, request: GenerationRequest, *, key: str | None = None) -> tuple[JobView, str]:
        """Claims what is asked for; what is new is sent in the background.

        Args:
            request: What is wanted.
            key: The sender's own id of the request: the same one is never answered with a second payment, not even
                after a failure, and never stands for another request.

        Returns:
            The job, and whether it was `accepted`, `joined` to one under way, or `stored` already.

        Raises:
            IdempotencyKeyReused: The key stands for another request; nothing was sent.
            InvalidInput: It cannot be made; nothing was sent.
            BudgetExceeded: A limit would be passed; nothing was sent.
            LedgerError: The ledger cannot be used; nothing was sent.
            RequestRejected: The provider's endpoint or key is wrong; nothing was sent.
            StoreError: The store cannot be read, or is not the one that the ledger knows; nothing was sent.
        """
        session = self._session(request.provider)
        project = Project(name=request.project, shots=(request.shot(),), max_attempts=1, priority=request.priority)
        job_request = await self.job_request(session, project, request.take, key)
        if key is not None and (answered := await _answered(session, request, key)):
            return self._job(answered), "stored" if answered.state is State.STORED else "joined"
        await find_assets(session, [job_request])
        (claim,) = await claim_shots(session, [job_request], budgets=project_budgets(session, project), partial=False)
        job = _job(claim)
        if key is not None:
            await session.ledger.idempotency.answer_key(key, job.id, environment=session.settings.environment)
        if claim.kind is ClaimOutcome.ACQUIRED:
            self._work_on(_send(session, job), f"send {job.id}")
        outcome = {ClaimOutcome.ACQUIRED: "accepted", ClaimOutcome.STORED: "stored"}.get(claim.kind, "joined")
        return self._job(job), outcome

    async def find(self, job_id: str) -> JobView | None:
        """A job by its id."""
        found = await self._accounts.sessions[0].ledger.jobs.get_many([job_id])
        return self._job(found[0]) if found else None

    async def resume(self) -> None:
        """Sends what an earlier process had accepted and did not live to send; looks for what may have ended since."""
        for session in self._accounts.sessions:
            for job in await session.ledger.jobs.unfinished(account=session.provider.account.id):
                asked_here = (job.flow_run_id or "").startswith(REQUEST_PREFIX)
                if not asked_here or job.hold_reason:
                    continue
                if job.state in _UNSENT:
                    if taken := await session.ledger.claims.take_over(job.id):
                        self._work_on(_send(session, taken), f"send {job.id}")
                elif self._collects and _may_have_ended(job):
                    self._work_on(self._collect(session, job), f"collect {job.id}")

    async def aclose(self) -> None:
        """Stops; what was not sent is sent by the next start."""
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    def _session(self, name: str | None) -> Session:
        if name is None:
            return self._accounts.sessions[0]
        named = self._accounts.by_name(name)
        if not named:
            raise InvalidInput(f"provider: this service has no account {name!r}")
        return named[0]

    async def job_request(self, session: Session, project: Project, take: int, key: str | None) -> JobRequest:
        job_requests = await build_project_intents(
            session,
            project,
            ClaimOptions(
                ttl_seconds=session.settings.ttl_seconds,
                flow_run_id=f"{REQUEST_PREFIX}{key or uuid.uuid4()}",
            ),
        )
        return job_requests[take - 1]

    def _work_on(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _collect(self, session: Session, job: Job) -> None:
        """Stores a video of whose end no webhook has told, if that has come."""
        try:
            async with self._collecting:
                await collect_job(session, job, wait=False)
        except LedgerError as error:
            logger.warning("%s/%s: not collected now: %s", job.project, job.shot.id, error)

    def _job(self, job: Job) -> JobView:
        session = self._accounts.by_id(job.account) or self._accounts.sessions[0]
        return JobView.of(job, session.provider.capabilities.seconds_per_video_second)


async def _answered(session: Session, request: GenerationRequest, key: str) -> Job | None:
    """The finished row that the same request with the same key was answered with, if anything was accepted for it."""
    job_id = await session.ledger.idempotency.bind_key(key, request.digest, environment=session.settings.environment)
    job = await session.ledger.jobs.get(job_id) if job_id else None
    return job if job and job.state not in UNFINISHED and job.state is not State.RELEASED else None


async def _send(session: Session, job: Job) -> None:
    """Sends a row and leaves it at the provider; the ledger says what became of it."""
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
        try:
            await abandon(session, job.id, failure)
        except LedgerError as error:
            logger.error("row %s is not let go of before this process ends: %s", job.id, error)


async def _submit(session: Session, job: Job) -> None:
    try:
        await submit(session, job)
    except QuotaExhausted as error:
        # It may have been held back here; whoever asks is told the same as by the provider itself.
        await session.ledger.jobs.release_reservation(job.id, error)
        raise


def _may_have_ended(job: Job) -> bool:
    estimate = job.estimated_completion_at
    return job.state is State.COMPLETED or estimate is None or estimate <= datetime.now(UTC)


def _job(claim: ClaimResult) -> Job:
    if claim.kind is ClaimOutcome.OVER_BUDGET or claim.job is None:
        raise BudgetExceeded(f"shot {claim.request.shot.id!r}: {claim.refusal}")
    return claim.job


def _seconds_left(job: Job, seconds_per_video_second: tuple[float, float]) -> float:
    if job.estimated_completion_at is not None:
        return round(max(0.0, (job.estimated_completion_at - datetime.now(UTC)).total_seconds()), 1)
    expected = sum(seconds_per_video_second) / 2 * job.shot.duration
    gone = (datetime.now(UTC) - job.submitted_at).total_seconds() if job.submitted_at else 0.0
    return round(max(0.0, expected - gone), 1)
