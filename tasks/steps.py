"""The steps of one shot as Prefect tasks, and the runner that a flow gives to the pipeline.

All of them are safe to repeat: the state of a generation is in the ledger, not in Prefect's results, so Prefect
neither caches nor persists anything here. Each takes the job that the step before has returned, which is how Prefect
knows that one follows the other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Concatenate, Final, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.concurrency.asyncio import concurrency
from prefect.context import TagsContext, TaskRunContext
from prefect.tasks import exponential_backoff
from prefect.utilities.annotations import opaque, quote

from prefect_video.assets import Asset
from prefect_video.downloads import Downloaded
from prefect_video.errors import LedgerUnavailable, ProviderError, VideoError
from prefect_video.film import StoredFilm
from prefect_video.ledger import Job, JobRequest, StoredMatch
from prefect_video.pipeline import Inputs, Result, StepRunner, steps
from prefect_video.projects import Project
from prefect_video.providers import Account
from prefect_video.session import Session
from prefect_video.tasks.lineage import record_materialized
from prefect_video.tasks.sessions import SessionRef, use_session


async def _nothing_was_accepted(_task: Any, _run: Any, state: State[Any]) -> bool:
    error = await state.aresult(raise_on_failure=False)
    if isinstance(error, ProviderError):
        return error.retryable and error.accepted is False
    return isinstance(error, LedgerUnavailable)


async def _costs_nothing(_task: Any, _run: Any, state: State[Any]) -> bool:
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, VideoError) and error.retryable


_STEP: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(5),
    "retry_jitter_factor": 1.0,
}
_FREE: dict[str, Any] = {**_STEP, "retry_condition_fn": _costs_nothing}
_PAID: dict[str, Any] = {**_STEP, "retry_condition_fn": _nothing_was_accepted}


@task(name="find_stored", task_run_name="find {job_requests[0].project}", **_FREE)
async def find_stored(
    ref: SessionRef,
    job_requests: Sequence[JobRequest],
    *,
    rebuy_missing: bool = False,
    accounts: Collection[Account] = (),
) -> list[StoredMatch | None]:
    """Find the jobs that are stored already, in the order of the requests; one query for all shots of a project."""
    async with use_session(ref) as session:
        return await steps.find_stored(session, job_requests, rebuy_missing=rebuy_missing, accounts=accounts)


@task(name="screen_prompts", task_run_name="screen {jobs[0].project}", **_FREE)
async def screen_prompts(ref: SessionRef, jobs: Sequence[Job]) -> dict[str, Exception]:
    """Screen the prompts of all reserved jobs of a project; returns by job id why one does not pass."""
    async with use_session(ref) as session:
        return await steps.screen_prompts(session, jobs)


@task(name="submit", task_run_name="submit {job.shot.id}", **_PAID)
async def submit(ref: SessionRef, job: Job) -> Job:
    """Bring a job to submitted; retried only where nothing was accepted."""
    async with use_session(ref) as session:
        return await steps.submit(session, await _current(session, job), task_run_id=_task_run_id())


@task(name="poll", task_run_name="poll {job.shot.id}", **_FREE)
async def poll(ref: SessionRef, job: Job) -> Job:
    """Wait for the generation's end; all shots of the process share one poller."""
    async with use_session(ref) as session:
        return await steps.poll(session, await _current(session, job))


@task(name="download", task_run_name="download {job.shot.id}", cache_result_in_memory=False, **_FREE)
async def download(ref: SessionRef, job: Job) -> Downloaded:
    """Fetch the finished video into the spool and check it."""
    async with use_session(ref) as session:
        return await steps.download(session, await _current(session, job))


@task(name="store", task_run_name="store {job.shot.id}", **_FREE)
async def store(ref: SessionRef, job: Job, downloaded: Downloaded) -> Job:
    """Publish the video and mark its job stored."""
    async with use_session(ref) as session:
        stored = await steps.store(session, job, downloaded)
    if stored.asset:
        record_materialized(stored.asset)
    return stored


@task(name="cut-film", task_run_name="cut {project.name}", **_FREE)
async def cut_film(ref: SessionRef, project: Project, clips: Mapping[str, Asset]) -> tuple[StoredFilm, bool]:
    """Make the final cut of a project from its stored clips, and publish it."""
    async with use_session(ref) as session:
        return await steps.cut_film(session, project, clips)


_TASKS: Final[Mapping[Callable[..., Any], Callable[..., Awaitable[Any]]]] = {
    steps.find_stored: find_stored,
    steps.screen_prompts: screen_prompts,
    steps.submit: submit,
    steps.poll: poll,
    steps.download: download,
    steps.store: store,
    steps.cut_film: cut_film,
}


class TaskRunner(StepRunner):
    """Runner of steps as task runs, each with the options of its task.

    Args:
        refs: The references that the run's sessions were opened by.
    """

    def __init__(self, refs: Sequence[SessionRef]) -> None:
        self._refs = {ref.provider: ref for ref in refs}
        self._followed: dict[str, Sequence[Job]] = {}

    def run_step(
        self,
        step: Callable[Concatenate[Session, Inputs], Awaitable[Result]],
        session: Session,
        *inputs: Inputs.args,
        **named: Inputs.kwargs,
    ) -> Awaitable[Result]:
        """Run the task of a step; in Prefect's graph it follows the task that has made its last input."""
        # Prefect searches inputs for results of other tasks, down to single strings, and the jobs of one run share
        # those: quoted, only the last input links the tasks.
        *earlier, last = inputs
        given = (quote(self._refs[session.credentials]), *map(quote, earlier), opaque(last))
        options: dict[str, Any] = {name: quote(value) for name, value in named.items()}
        if step is steps.submit and isinstance(last, Job) and (followed := self._followed.get(last.shot.id)):
            options["wait_for"] = [opaque(job) for job in followed]
        return cast(Awaitable[Result], _TASKS[step](*given, **options))

    def link(self, shot_id: str, jobs: Sequence[Job]) -> None:
        """Let the submit of a shot follow, in Prefect's graph, the tasks that have returned these jobs."""
        self._followed[shot_id] = [*self._followed.get(shot_id, ()), *jobs]

    def has_limit(self, session: Session) -> bool:
        """Tell whether the credentials name a concurrency limit, or task runs have tags, which may have one."""
        return session.settings.concurrency_limit is not None or bool(TagsContext.get().current_tags)

    def hold_limit(self, session: Session) -> AbstractAsyncContextManager[None]:
        """Hold the Prefect concurrency limit that the credentials name.

        A lost renewal does not end the run: paid generations are awaited, and the ledger's slots hold anyway.
        """
        limit = session.settings.concurrency_limit
        return _hold(limit) if limit is not None else nullcontext()


@asynccontextmanager
async def _hold(limit: str) -> AsyncIterator[None]:
    async with concurrency(limit, strict=True, raise_on_lease_renewal_failure=False):
        yield


async def _current(session: Session, job: Job) -> Job:
    """Return the job that the step before has returned; read it again where this run of the task is a retry."""
    context = TaskRunContext.get()
    is_first = context is None or context.task_run.run_count <= 1
    return job if is_first else await session.ledger.jobs.get(job.id)


def _task_run_id() -> str | None:
    context = TaskRunContext.get()
    return str(context.task_run.id) if context else None
