"""Storing: publishing a checked file and writing down where it is."""

from __future__ import annotations

import asyncio

from prefect_video.downloads.media import probe
from prefect_video.downloads.transfer import Downloaded
from prefect_video.errors import StoreError
from prefect_video.ledger import Entry, State
from prefect_video.pipeline.steps.store_check import claim_store
from prefect_video.session.session import SessionEvent, Studio
from prefect_video.storage.publish import AssetDraft, LedgerReference, publish_video


async def store(studio: Studio, entry: Entry, downloaded: Downloaded) -> Entry:
    """Publishes a downloaded video with its sidecar and thumbnail, and marks its row stored.

    Raises:
        StoreError: The store cannot be written; the row stays completed and can be stored later.
        LedgerFileUnsafe: It is stored, and written down in a file that is no longer the ledger.
    """
    # Read again: a download may have taken minutes, and another process have stored it since.
    entry = await studio.ledger.get(entry.id)
    if entry.state is State.STORED and entry.asset:
        return entry
    media = downloaded.media
    if media is None:
        media = await asyncio.to_thread(probe, downloaded.path)
    studio.tell(SessionEvent.BEFORE_PUBLISH, entry)
    try:
        store_id = await claim_store(studio.ledger, studio.store)
        draft = asset_draft(entry, studio.ledger.identity)
        asset = await publish_video(studio.store, downloaded, media, draft=draft)
    except StoreError as error:
        studio.tell(SessionEvent.NOT_PUBLISHED, entry, str(error))
        raise
    studio.tell(SessionEvent.PUBLISHED, entry)
    entry = await studio.ledger.record_stored(entry.id, asset, store_id=store_id)
    # The video and its sidecar are safe; a run whose ledger others cannot read must not end as if all were well.
    studio.ledger.require_file()
    await asyncio.to_thread(downloaded.path.unlink, missing_ok=True)
    studio.tell(SessionEvent.STORED, entry)
    return entry


def asset_draft(entry: Entry, ledger_id: str) -> AssetDraft:
    """Draft the asset that is made from a row of the ledger with an identity."""
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
