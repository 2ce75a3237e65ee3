"""Deletion: a video whose file was deleted from its store on purpose, one job at a time.

A file that is missing is a sign of an outage, and stops every run that misses another one. What a human has deleted is
no such sign once the job says so.
"""

from __future__ import annotations

from prefect_video.assets import MANUAL
from prefect_video.errors import InvalidInput, StoreOutage
from prefect_video.ledger import HoldReason, Job, Ledger, hold_message
from prefect_video.pipeline.steps.store_check import describe_size
from prefect_video.pipeline.steps.store_identity import check_store
from prefect_video.pipeline.steps.whole_copies import find_whole_copies, place_copy
from prefect_video.storage import Store, read_sha256


async def settle_deleted(ledger: Ledger, store: Store, job: Job, *, give_up: bool) -> Job:
    """Settle a stored job whose file was deleted or damaged: its cost stays in the ledger.

    Args:
        ledger: The ledger.
        store: The store that the job names.
        job: The stored job.
        give_up: End the job as lost, for no run to buy it again; otherwise reopen it, so that a run or `collect`
            fetches it again; one that was made by hand ends as lost, for a run to generate it.

    Returns:
        The job: lost, completed, or still stored, with a whole copy for its file.

    Raises:
        InvalidInput: The file is whole; nothing was changed.
        StoreOutage: It is not the store that the file was put into; nothing was changed.
        StoreError: The store cannot be read; nothing was changed.
    """
    assert job.asset is not None
    found = await check_store(ledger, store, job.store)
    if not store.owns(job.asset.uri) or found is None or job.store_id not in (None, found):
        raise StoreOutage(
            f"job {job.id}: its file {job.asset.uri} was not put into the store {job.store} as it is now, so it is not"
            " known to be deleted; nothing was changed. Mount that store, or correct its address"
        )
    flaw = await _find_flaw(store, job)
    if flaw is None:
        raise InvalidInput(
            f"job {job.id} is stored, and its file {job.asset.uri} is whole: nothing was changed. Delete the file"
            " first; or run with --refresh to buy another video in its place"
        )
    if copy := (await find_whole_copies(ledger, store, [job])).get(job.id):
        detail = f"resolved: its file was {flaw}; its whole copy {copy.uri} is used"
        asset = await place_copy(ledger, store, job, copy, flaw)
        await ledger.stores.move_asset(job, asset, store_id=found, store=job.store, detail=detail)
        return await ledger.jobs.get(job.id)
    if give_up:
        # In one step: another run must not buy what is given up.
        given_up = hold_message(HoldReason.GIVEN_UP, job=job.id, shot=job.shot.id, ledger=ledger.command_option)
        return await ledger.jobs.record_missing(job.id, f"resolved: its file was {flaw}", hold_reason=given_up)
    if job.provider == MANUAL:
        return await ledger.jobs.record_missing(job.id, f"resolved: its file, made by hand, was {flaw}")
    return await ledger.jobs.reopen_stored(job.id, f"its stored file was {flaw}")


async def _find_flaw(store: Store, job: Job) -> str | None:
    assert job.asset is not None
    if flaw := describe_size(await store.size(job.asset.uri), job.asset.bytes):
        return flaw
    return None if await read_sha256(store, job.asset.uri) == job.asset.sha256 else "damaged (its SHA-256 differs)"
