"""The steps of one shot as Prefect tasks.

All of them are safe to repeat: where a generation stands is in the ledger, not in Prefect's results, so nothing here
is cached or persisted by Prefect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.concurrency.asyncio import concurrency
from prefect.context import TaskRunContext
from prefect.tasks import exponential_backoff

from prefect_video.assets import Asset
from prefect_video.downloads import Downloaded
from prefect_video.errors import LedgerUnavailable, ProviderError, VideoError
from prefect_video.ledger import Entry, Intent
from prefect_video.steps import claiming, downloading, polling, screening, storing, submitting
from prefect_video.studio import Studio
from prefect_video.tasks.studios import StudioRef, open_studio


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


@task(name="find_asset", task_run_name="find {project}", **_FREE)
async def find_asset(
    studio: StudioRef,
    intents: Sequence[Intent],
    project: str,
    rebuy_missing: bool = False,
    accounts: Collection[str] = (),
) -> dict[str, Asset]:
    """The assets that are stored already, by fingerprint; one query for all shots of a project."""
    async with open_studio(studio) as opened:
        return await claiming.find_assets(opened, intents, rebuy_missing=rebuy_missing, accounts=accounts)


@task(name="screen_prompt", task_run_name="screen {shot}", **_FREE)
async def screen_prompt(studio: StudioRef, entry_id: str, shot: str) -> None:
    """Lets a reserved row pass the local screen, or releases it and keeps it for review."""
    async with open_studio(studio) as opened:
        await screening.screen_prompt(opened, entry_id)


@task(name="submit", task_run_name="submit {shot}", **_PAID)
async def submit(studio: StudioRef, entry_id: str, shot: str) -> Entry:
    """Brings a row to submitted; retried only where nothing was accepted."""
    async with open_studio(studio) as opened:
        return await submitting.submit(opened, entry_id, task_run_id=_task_run_id())


@task(name="poll", task_run_name="poll {shot}", **_FREE)
async def poll(studio: StudioRef, entry_id: str, shot: str) -> Entry:
    """Waits for the generation's end; all shots of the process share one watcher."""
    async with open_studio(studio) as opened:
        return await polling.poll(opened, entry_id)


@task(name="download", task_run_name="download {shot}", cache_result_in_memory=False, **_FREE)
async def download(studio: StudioRef, entry_id: str, shot: str) -> Downloaded:
    """Fetches the finished video into the spool and checks it."""
    async with open_studio(studio) as opened:
        return await downloading.download(opened, entry_id)


@task(name="store", task_run_name="store {shot}", **_FREE)
async def store(studio: StudioRef, entry_id: str, shot: str, downloaded: Downloaded) -> Asset:
    """Publishes the video and marks its row stored."""
    async with open_studio(studio) as opened:
        return await storing.store(opened, entry_id, downloaded)


@dataclass(frozen=True)
class TaskSteps:
    """The steps of a studio's rows, each as a task run; see `prefect_video.steps.Steps`."""

    studio: StudioRef

    @asynccontextmanager
    async def in_flight(self, entry: Entry) -> AsyncIterator[None]:
        """Holds the Prefect concurrency limit that the credentials name, while the provider is at work.

        A lost renewal does not kill the run: what is paid for is awaited, and the ledger's slots hold anyway.
        """
        async with open_studio(self.studio) as opened:
            limit = opened.settings.concurrency_limit
        if limit is None:
            yield
            return
        async with concurrency(limit, strict=True, raise_on_lease_renewal_failure=False):
            yield

    async def find_asset(
        self, intents: Sequence[Intent], *, rebuy_missing: bool, accounts: Collection[str]
    ) -> dict[str, Asset]:
        """See the task of the same name."""
        return await find_asset(
            self.studio, intents, project=intents[0].project, rebuy_missing=rebuy_missing, accounts=accounts
        )

    async def screen_prompt(self, entry: Entry) -> None:
        """See the task of the same name."""
        await screen_prompt(self.studio, entry.id, shot=entry.shot.id)

    async def submit(self, entry: Entry) -> Entry:
        """See the task of the same name."""
        return await submit(self.studio, entry.id, shot=entry.shot.id)

    async def poll(self, entry: Entry) -> Entry:
        """See the task of the same name."""
        return await poll(self.studio, entry.id, shot=entry.shot.id)

    async def download(self, entry: Entry) -> Downloaded:
        """See the task of the same name."""
        return await download(self.studio, entry.id, shot=entry.shot.id)

    async def store(self, entry: Entry, downloaded: Downloaded) -> Asset:
        """See the task of the same name."""
        return await store(self.studio, entry.id, shot=entry.shot.id, downloaded=downloaded)


def tasks_of(refs: Sequence[StudioRef]) -> Callable[[Studio], TaskSteps]:
    """Makes the steps of a studio's rows, as `produce_project` wants them, from the references it was opened by."""
    by_provider = {ref.provider: TaskSteps(ref) for ref in refs}
    return lambda studio: by_provider[studio.credentials]


def _task_run_id() -> str | None:
    context = TaskRunContext.get()
    return str(context.task_run.id) if context else None
