"""Restore: fetch a stored video whose file is missing or damaged again from its provider, free."""

from __future__ import annotations

from prefect_video._shield import shielded
from prefect_video.errors import GenerationExpired, StoreError
from prefect_video.generations import Status
from prefect_video.ledger import Job
from prefect_video.pipeline.steps.absence import require_loss_proven
from prefect_video.pipeline.steps.download import download
from prefect_video.pipeline.steps.end import require_same_account
from prefect_video.pipeline.steps.store import store
from prefect_video.session import Session


async def restore(session: Session, job: Job, flaw: str) -> None:
    """Fetch a stored video again and publish it; the file there is replaced once the whole one is fetched.

    Where it cannot be fetched the job stays stored: its file may come back with a volume that is mounted again.

    Args:
        session: The account that made it, and the store that it goes to.
        job: A stored job.
        flaw: Description of the flaw of its file.

    Raises:
        GenerationExpired: The provider no longer has it.
        HeldForReview: It belongs to another account.
        VideoError: It could not be fetched or published now.
    """
    require_same_account(session, job)
    generation_id = job.generation_id or ""
    generation = await session.poller.poll_once(generation_id)
    # The job stays stored in any case; "the provider no longer has it" must be true.
    await require_loss_proven(session, job, generation)
    if generation.status is not Status.COMPLETED or generation.result is None:
        raise GenerationExpired(
            f"shot {job.shot.id!r}: generation {generation_id} is {generation.status.value} at {job.provider},"
            " which no longer has its video",
            provider=job.provider,
            generation_id=generation_id,
        )
    await session.ledger.jobs.reopen_stored(job.id, f"its stored file was {flaw}")
    taken = await session.ledger.claims.take_over(job.id)
    if taken is None:
        raise StoreError(f"shot {job.shot.id!r}: another process is fetching it at this moment")
    try:
        session.fresh_generations.put(generation)
        stored = await store(session, taken, await download(session, taken))
        await _delete_flawed(session, job, stored)
    except BaseException:
        await shielded(_record_as_stored(session, job))
        raise


async def _delete_flawed(session: Session, before: Job, stored: Job) -> None:
    """Delete the flawed video where it lies elsewhere in the store, with its sidecar; at the same place it is gone."""
    uri = before.asset.uri if before.asset else ""
    if stored.asset is None or not session.store.owns(uri) or session.store.canonical_uri(uri) == stored.asset.uri:
        return
    for kind in (".mp4", ".json", ".jpg"):
        await session.store.delete(f"{uri.removesuffix('.mp4')}{kind}")


async def _record_as_stored(session: Session, job: Job) -> None:
    current = await session.ledger.jobs.get(job.id)
    if current.is_reopened and job.asset:
        await session.ledger.jobs.record_stored(job.id, job.asset, store_id=job.store_id)
