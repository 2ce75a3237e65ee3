"""Jobs that exist already for a request: those of its environment and fingerprint, and which of them may serve it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, bindparam, or_
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.assets import MANUAL
from prefect_video.errors import VideoRejected
from prefect_video.ledger.base import chunks
from prefect_video.ledger.records import PARTS_PREFIX, UNFINISHED, Job, JobRequest, State, counting_run
from prefect_video.ledger.tables import JOBS, job_from_row, jobs_table

Key = tuple[str, str]
"""Environment and fingerprint: only one row of each may be in progress."""

_ENDED = (State.FAILED, State.CANCELLED, State.EXPIRED, State.LOST)
_STANDING: Final = or_(jobs_table.c.state.in_((*UNFINISHED, State.STORED)), jobs_table.c.hold_reason.is_not(None))
_REJECTED: Final = and_(jobs_table.c.state == State.LOST, jobs_table.c.error_type == VideoRejected.__name__)
_MISSING: Final = and_(jobs_table.c.state == State.LOST, jobs_table.c.stored_at.is_not(None))
_OF_RUNS: Final = jobs_table.c.flow_run_id.in_(bindparam("runs", expanding=True))


def _of_fingerprints(wanted: ColumnElement[bool]) -> Select[Any]:
    return JOBS.where(
        jobs_table.c.environment == bindparam("environment"),
        jobs_table.c.fingerprint.in_(bindparam("fingerprints", expanding=True)),
        wanted,
    )


# Built once: each claim runs them, and building one takes longer than running it.
_READ_UNFINISHED: Final = _of_fingerprints(jobs_table.c.state.in_(UNFINISHED))
_READ_FINISHED: Final = _of_fingerprints(
    or_(
        jobs_table.c.state == State.STORED,
        and_(jobs_table.c.state.in_(_ENDED), or_(_OF_RUNS, jobs_table.c.hold_reason.is_not(None), _REJECTED)),
    )
)
_READ_STANDING: Final = _of_fingerprints(_STANDING)
_READ_STANDING_OR_MISSING: Final = _of_fingerprints(or_(_STANDING, _MISSING))


def claim_key(item: JobRequest | Job) -> Key:
    """Return the key under which only one row may be in progress."""
    return item.environment, item.fingerprint


async def read_unfinished(connection: AsyncConnection, keys: Iterable[Key]) -> dict[Key, Job]:
    """Read the row in progress of each key that has one."""
    found = await _read(connection, keys, _READ_UNFINISHED)
    return {claim_key(job): job for job in found}


async def read_finished(connection: AsyncConnection, job_requests: Collection[JobRequest]) -> dict[Key, list[Job]]:
    """Read what exists for each request, newest first.

    That is: stored rows, what ended without a video in its own flow run, what did so and waits for a human, and what
    the quality gates have rejected.
    """
    runs = {run for job_request in job_requests if (run := counting_run(job_request.flow_run_id)) is not None}
    of_runs = [*runs, *(f"{PARTS_PREFIX}{run}" for run in runs)]
    finished: dict[Key, list[Job]] = {}
    for job in await _read(connection, map(claim_key, job_requests), _READ_FINISHED, runs=of_runs):
        finished.setdefault(claim_key(job), []).append(job)
    for jobs in finished.values():
        jobs.sort(key=lambda job: job.stored_at or job.created_at, reverse=True)
    return finished


async def read_existing(
    connection: AsyncConnection, job_requests: Iterable[JobRequest | Job], *, with_missing: bool = False
) -> dict[Key, list[Job]]:
    """Read the rows that a claim would return, newest first: stored, in progress, or held.

    With `with_missing` also those that were stored once, and whose file is neither in the store nor at the provider.
    """
    query = _READ_STANDING_OR_MISSING if with_missing else _READ_STANDING
    existing: dict[Key, list[Job]] = {}
    for job in await _read(connection, map(claim_key, job_requests), query):
        existing.setdefault(claim_key(job), []).append(job)
    for jobs in existing.values():
        jobs.sort(key=lambda job: job.stored_at or job.created_at, reverse=True)
    return existing


def existing_job(jobs: Sequence[Job], job_request: JobRequest, now: datetime) -> Job | None:
    """Return the row that a claim would return now; None when the video would be bought."""
    in_progress = (job for job in jobs if job.state in UNFINISHED)
    return next(in_progress, None) or reusable(jobs, job_request, now) or held_job(jobs)


def reusable(jobs: Iterable[Job], job_request: JobRequest, now: datetime) -> Job | None:
    """Return the newest stored row that answers a request; one of its own flow run always does.

    A clip that was adopted for a shot is for that shot alone, and no video of another shot takes its place.
    """
    oldest = None if job_request.ttl_seconds is None else now - timedelta(seconds=job_request.ttl_seconds)
    found: list[Job] = []
    for job in jobs:
        if job.state is not State.STORED or job.stored_at is None or not _may_serve(job, job_request):
            continue
        if _is_of_run(job, job_request) or (not job_request.refresh and (oldest is None or job.stored_at >= oldest)):
            found.append(job)
    if any(_is_adopted(job, job_request) for job in found):
        found = [job for job in found if _is_of_shot(job, job_request)]
    return next(iter(found), None)


def _may_serve(job: Job, job_request: JobRequest) -> bool:
    return not _is_adopted(job, job_request) or _is_of_shot(job, job_request)


def _is_adopted(job: Job, job_request: JobRequest) -> bool:
    """Return whether a video was made by hand in place of one that was requested of a provider."""
    return job.provider == MANUAL and job_request.provider != MANUAL


def _is_of_run(job: Job, job_request: JobRequest) -> bool:
    run = counting_run(job_request.flow_run_id)
    return run is not None and counting_run(job.flow_run_id) == run


def _is_of_shot(job: Job, job_request: JobRequest) -> bool:
    return (job.project, job.shot.id) == (job_request.project, job_request.shot.id)


def held_job(jobs: Iterable[Job]) -> Job | None:
    """Return the newest held row that ended without a video; until it is resolved nothing is bought in its place."""
    waiting = (job for job in jobs if job.state in _ENDED and job.hold_reason is not None)
    return max(waiting, key=lambda job: job.created_at, default=None)


def count_attempts(jobs: Sequence[Job], job_request: JobRequest) -> int:
    """Count the attempts at a request that ended without a video, as far as they count against its attempts.

    Those of its own flow run do. What the quality gates have rejected was paid, so it counts in every run, until a
    human has decided or a video is stored.

    Args:
        jobs: What exists for the request, newest first.
        job_request: The request.
    """
    # A failure after a rejected video is no decision about it: only a stored video ends the count.
    since_stored = takewhile(lambda job: job.stored_at is None, jobs)
    rejected = next((job.attempt for job in since_stored if job.is_rejected), 0)
    if job_request.flow_run_id is None:
        return rejected
    # A row that was stored and whose file is missing was no failed attempt.
    ended = [job for job in jobs if job.state in _ENDED and job.stored_at is None]
    return max(rejected, sum(_is_of_run(job, job_request) for job in ended))


async def _read(connection: AsyncConnection, keys: Iterable[Key], query: Select[Any], **values: Any) -> list[Job]:
    by_environment: dict[str, list[str]] = {}
    for environment, fingerprint in keys:
        by_environment.setdefault(environment, []).append(fingerprint)
    jobs: list[Job] = []
    for environment, fingerprints in by_environment.items():
        for chunk in chunks(fingerprints):
            sought = {"environment": environment, "fingerprints": list(chunk), **values}
            found = await connection.execute(query, sought)
            jobs.extend(job_from_row(row) for row in found)
    return jobs
