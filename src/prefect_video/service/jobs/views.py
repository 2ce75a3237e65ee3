"""Answers of the job API: jobs, projects and spending as clients see them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from prefect_video.ledger import Choice, Job, ProjectRequest, State
from prefect_video.quality import Finding, Quality
from prefect_video.service.problems import Problem

JobStatus = Literal["queued", "processing", "completed", "failed", "cancelled", "held"]
ENDED: Final = frozenset({"completed", "failed", "cancelled"})

_STATUSES: Final[dict[State, JobStatus]] = {
    State.RESERVED: "queued",
    State.SUBMITTING: "queued",
    State.UNKNOWN: "queued",
    State.SUBMITTED: "processing",
    State.COMPLETED: "processing",
    State.STORED: "completed",
    State.CANCELLED: "cancelled",
}


_JOB: Final[JsonDict] = {
    "job_id": "3fa94c07-6f0e-4a63-9a3c-2a3f0f1f8a11",
    "status": "completed",
    "state": "stored",
    "project": "cats",
    "shot": "a-cat-on-a-skateboard",
    "take": 1,
    "takes": 2,
    "chosen": True,
    "model": "sora-2",
    "provider": "sora",
    "requester": "web",
    "generation_id": "gen_01",
    "created_at": "2026-01-31T12:00:00Z",
    "updated_at": "2026-01-31T12:02:00Z",
    "submitted_at": "2026-01-31T12:00:01Z",
    "completed_at": "2026-01-31T12:01:58Z",
    "stored_at": "2026-01-31T12:02:00Z",
    "uri": "s3://videos/cats/a-cat-on-a-skateboard.mp4",
    "url": "https://video.example.com/v1/jobs/3fa94c07-6f0e-4a63-9a3c-2a3f0f1f8a11/video?token=web&expires=1769867520&signature=5d41",
    "quality": {
        "score": 0.82,
        "flags": [{"kind": "silent", "detail": "no sound above -60 dB", "policy": "flag"}],
    },
    "cost_usd": 1.2,
}
"""A job, for readers of the document."""

PLAN: Final[JsonDict] = {
    "project": "cats",
    "provider": "sora",
    "shots": [
        {
            "id": "a-cat-on-a-skateboard",
            "action": "generate",
            "prompt": "a cat on a skateboard",
            "duration": 4,
            "resolution": "720p",
            "aspect_ratio": "16:9",
            "estimate_usd": 1.2,
            "provider": "sora",
        }
    ],
    "limits": [
        {
            "name": "project cats",
            "limit_usd": 20,
            "spent_usd": 0,
            "reserved_usd": 0,
            "videos": 0,
        }
    ],
    "cost_usd": 1.2,
    "unpriced": 0,
    "later": {},
    "fits": True,
}
"""A plan, for readers of the document."""


class QualityView(BaseModel):
    """Findings of a project's quality gates in a video.

    Attributes:
        score: Its quality from 0 to 1, to compare takes of one shot.
        flags: The respects in which it fails; empty where it passes.
    """

    score: float
    flags: list[Finding] = Field(default_factory=list)

    @classmethod
    def from_quality(cls, quality: Quality | None) -> QualityView | None:
        """Build the view of a result; None where there were no gates."""
        return None if quality is None else cls(score=quality.score, flags=list(quality.findings))


class JobView(BaseModel):
    """A job as the API shows it.

    Attributes:
        job_id: The id of the job in the ledger.
        status: The state of the request; `held` waits for a decision.
        state: The state in the ledger, which is finer.
        take: The number of the take, from 1.
        takes: How many takes its shot has.
        chosen: Whether this take counts for its project; None where no choice is made among takes, or not yet.
        estimated_time: Seconds until the video is expected; None once the job has ended.
        uri: The stored video.
        url: A link that plays the video, without a token, until it expires.
        quality: What the quality gates have found in the video; None where there are none, or no video yet.
        cost_usd: The cost, or the estimate until it is known; None when both are unknown.
        error: The reason why there is no video or why the job is held, with the next step.
        requester: Name of the token that is charged; None for runs of the operator.
    """

    model_config = ConfigDict(json_schema_extra={"example": _JOB})

    job_id: str
    status: JobStatus
    state: State
    project: str
    shot: str
    take: int
    takes: int = 1
    chosen: bool | None = None
    model: str
    provider: str
    requester: str | None = None
    generation_id: str | None = None
    created_at: AwareDatetime
    updated_at: AwareDatetime
    submitted_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None
    stored_at: AwareDatetime | None = None
    estimated_time: float | None = None
    uri: str | None = None
    url: str | None = None
    sha256: str | None = None
    quality: QualityView | None = None
    cost_usd: float | None = None
    error: str | None = None

    @classmethod
    def from_job(
        cls, job: Job, seconds_per_video_second: tuple[float, float], *, choice: Choice | None = None
    ) -> JobView:
        """Build the view of a job; `choice` is the decision about the takes of its shot."""
        status = status_of(job)
        waiting = status in ("queued", "processing")
        return cls(
            job_id=job.id,
            status=status,
            state=job.state,
            project=job.project,
            shot=job.shot.id,
            take=job.take,
            takes=max(job.shot.takes, job.take),
            chosen=choice.fingerprint == job.fingerprint if choice and choice.fingerprint else None,
            model=job.shot.model,
            provider=job.provider,
            requester=job.requester,
            generation_id=job.generation_id,
            created_at=job.created_at,
            updated_at=job.updated_at,
            submitted_at=job.submitted_at,
            completed_at=job.completed_at,
            stored_at=job.stored_at,
            estimated_time=_estimate_seconds_left(job, seconds_per_video_second) if waiting else None,
            uri=job.asset.uri if job.asset else None,
            sha256=job.asset.sha256 if job.asset else None,
            quality=QualityView.from_quality(job.quality),
            cost_usd=None if job.cost_usd is None else float(job.cost_usd),
            error=job.hold_reason or job.error_message,
        )


class JobPage(BaseModel):
    """A page of jobs, newest first.

    Attributes:
        jobs: The jobs.
        next_cursor: The `cursor` of the next page; None on the last one.
    """

    model_config = ConfigDict(json_schema_extra={"example": {"jobs": [_JOB], "next_cursor": "WyIyMDI2LTAxLTMxIl0"}})

    jobs: list[JobView]
    next_cursor: str | None = None


class BatchItem(BaseModel):
    """The answer to one request of a batch: a job, or why it was refused.

    Attributes:
        status: The HTTP status that the request would have had alone.
        job: The job.
        problem: Why there is none.
    """

    status: int
    job: JobView | None = None
    problem: Problem | None = None


class BatchView(BaseModel):
    """The answers to a batch, in the order of its requests."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "jobs": [
                    {"status": 200, "job": _JOB},
                    {
                        "status": 422,
                        "problem": {
                            "type": "about:blank",
                            "title": "Unprocessable Content",
                            "status": 422,
                            "detail": "there is no account 'other'",
                        },
                    },
                ]
            }
        }
    )

    jobs: list[BatchItem]


class ProjectView(BaseModel):
    """A requested project.

    Attributes:
        id: Its id.
        project: The project's name.
        status: `completed` where every shot is stored, `failed` where one is not; the others are stored all the same.
        requester: Name of the token that is charged.
        created_at: When it was requested.
        ended_at: When its run ended.
        flow_run_id: The flow run of Prefect that makes it; None where the service does.
        cost_usd: The sum of its jobs' costs, as far as they are known.
        jobs: The jobs of its shots, as far as they have begun.
        error: Why not every shot is stored, and what to do.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "project-9c1f6a0e-52bb-4d0a-8a51-3b8b5a3f4f77",
                "project": "cats",
                "status": "completed",
                "requester": "web",
                "created_at": "2026-01-31T12:00:00Z",
                "ended_at": "2026-01-31T12:02:01Z",
                "cost_usd": 1.2,
                "jobs": [_JOB],
            }
        }
    )

    id: str
    project: str
    status: Literal["running", "completed", "failed"]
    requester: str
    created_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    flow_run_id: str | None = None
    cost_usd: float = 0.0
    jobs: list[JobView] = Field(default_factory=list)
    error: str | None = None

    @classmethod
    def from_request(cls, request: ProjectRequest, jobs: Sequence[JobView]) -> ProjectView:
        """Build the view of a project and its jobs."""
        status: Literal["running", "completed", "failed"] = "running"
        if request.ended_at is not None:
            status = "failed" if request.error else "completed"
        return cls(
            id=request.id,
            project=request.project.name,
            status=status,
            requester=request.requester.name,
            created_at=request.created_at,
            ended_at=request.ended_at,
            flow_run_id=request.flow_run_id,
            cost_usd=round(sum(job.cost_usd or 0.0 for job in jobs), 6),
            jobs=list(jobs),
            error=request.error,
        )


class SpendView(BaseModel):
    """Money that a token has committed in this calendar month (UTC).

    Attributes:
        token: Its name.
        spent_usd: What finished generations cost.
        reserved_usd: What is set aside for generations in progress.
        videos: Generations paid or reserved.
        limit_usd: The monthly limit; None for none.
        left_usd: What is left of it.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "token": "web",
                "spent_usd": 12.4,
                "reserved_usd": 1.2,
                "videos": 11,
                "limit_usd": 50.0,
                "left_usd": 36.4,
            }
        }
    )

    token: str
    spent_usd: float
    reserved_usd: float
    videos: int
    limit_usd: float | None = None
    left_usd: float | None = None


def status_of(job: Job) -> JobStatus:
    """Return the state of a request, in the words of the API."""
    # A stored video may be held for a disputed cost; it can be fetched all the same.
    held = job.hold_reason is not None and job.state is not State.STORED
    return "held" if held else _STATUSES.get(job.state, "failed")


def _estimate_seconds_left(job: Job, seconds_per_video_second: tuple[float, float]) -> float:
    """Estimate the seconds until a video is expected, by the ledger's estimate or the provider's usual pace."""
    if job.estimated_completion_at is not None:
        return round(max(0.0, (job.estimated_completion_at - datetime.now(UTC)).total_seconds()), 1)
    expected = sum(seconds_per_video_second) / 2 * job.shot.duration
    elapsed = (datetime.now(UTC) - job.submitted_at).total_seconds() if job.submitted_at else 0.0
    return round(max(0.0, expected - elapsed), 1)
