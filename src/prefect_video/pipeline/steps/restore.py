"""Restoring: a stored video whose file is missing or damaged is fetched again from its provider, free."""

from __future__ import annotations

from prefect_video._shield import to_its_end
from prefect_video.errors import GenerationExpired, StoreError
from prefect_video.generations import Status
from prefect_video.ledger import Entry
from prefect_video.pipeline.steps.download import download
from prefect_video.pipeline.steps.end import demand_account
from prefect_video.pipeline.steps.store import store
from prefect_video.session.session import Studio


async def restore(studio: Studio, entry: Entry, flaw: str) -> None:
    """Fetch a stored video again and publish it in place of what is there.

    Where it cannot be fetched the row stays stored: its file may come back with a volume that is mounted again.

    Args:
        studio: The account that made it, and the store that it goes to.
        entry: A stored row.
        flaw: What is wrong with its file.

    Raises:
        GenerationExpired: The provider no longer has it.
        NeedsAttention: It belongs to another account.
        VideoError: It could not be fetched or published now.
    """
    demand_account(studio, entry)
    generation_id = entry.generation_id or ""
    generation = await studio.watcher.look(generation_id)
    if generation.status is not Status.COMPLETED or generation.result is None:
        raise GenerationExpired(
            f"shot {entry.shot.id!r}: generation {generation_id} is {generation.status.value} at {entry.provider},"
            " which no longer has its video",
            provider=entry.provider,
            generation_id=generation_id,
        )
    await studio.ledger.reopen_stored(entry.id, f"its stored file was {flaw}")
    taken = await studio.ledger.take_over(entry.id)
    if taken is None:
        raise StoreError(f"shot {entry.shot.id!r}: another process is fetching it at this moment")
    try:
        studio.fresh_generations.put(generation)
        downloaded = await download(studio, taken)
        if entry.asset and studio.store.owns(entry.asset.uri):
            # One of the right size and the wrong content would be taken for this very video.
            await studio.store.delete(entry.asset.uri)
        await store(studio, taken, downloaded)
    except BaseException:
        await to_its_end(_put_back(studio, entry))
        raise


async def _put_back(studio: Studio, entry: Entry) -> None:
    current = await studio.ledger.get(entry.id)
    if current.is_reopened and entry.asset:
        await studio.ledger.record_stored(entry.id, entry.asset, store_id=entry.store_id)
