"""Storing: publishing a checked file and writing down where it is."""

from __future__ import annotations

import asyncio

from prefect_video.assets import Asset
from prefect_video.downloads import Downloaded
from prefect_video.errors import StoreError
from prefect_video.ledger import Entry, State
from prefect_video.media import probe
from prefect_video.storage.publishing import AssetDraft, publish_video
from prefect_video.storage.sidecars import LedgerReference
from prefect_video.studio import Studio


async def store(studio: Studio, entry_id: str, downloaded: Downloaded) -> Asset:
    """Publishes a downloaded video with its sidecar and thumbnail, and marks its row stored.

    Raises:
        StoreError: The store cannot be written; the row stays completed and can be stored later.
        LedgerFileUnsafe: It is stored, and written down in a file that is no longer the ledger.
    """
    entry = await studio.ledger.get(entry_id)
    if entry.state is State.STORED and entry.asset:
        return entry.asset
    media = await asyncio.to_thread(probe, downloaded.path)
    studio.tell("before_publish", entry)
    try:
        asset = await publish_video(studio.store, downloaded, media, draft=draft_of(entry, studio.ledger.identity))
    except StoreError as error:
        studio.tell("not_published", entry, str(error))
        raise
    studio.tell("published", entry)
    entry = await studio.ledger.record_stored(entry.id, asset)
    # The video and its sidecar are safe; a run whose ledger others cannot read must not end as if all were well.
    studio.ledger.require_file()
    await asyncio.to_thread(downloaded.path.unlink, missing_ok=True)
    studio.tell("stored", entry)
    return asset


def draft_of(entry: Entry, ledger_id: str) -> AssetDraft:
    """What a row says about the asset that is made from it."""
    return AssetDraft(
        entry_id=entry.id,
        project=entry.project,
        shot_id=entry.shot.id,
        take=entry.take,
        fingerprint=entry.fingerprint,
        prompt=entry.shot.prompt,
        model=entry.shot.model,
        provider=entry.provider,
        generation_id=entry.generation_id or "",
        cost_usd=entry.actual_usd,
        ledger=LedgerReference(
            id=ledger_id,
            job=entry.id,
            project=entry.project,
            environment=entry.environment,
            account=entry.account,
            credentials=entry.credentials,
            shot=entry.shot,
            reserved_usd=entry.reserved_usd,
            reserved_at=entry.created_at,
        ),
    )
