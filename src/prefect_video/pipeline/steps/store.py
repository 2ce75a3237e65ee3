"""Store: publish a checked file, and record its place."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

from prefect_video.assets import MANUAL, ContentCredentials
from prefect_video.downloads import (
    Downloaded,
    Media,
    decode_in_thread,
    no_content_credentials,
    probe,
    read_content_credentials,
)
from prefect_video.errors import StoreError
from prefect_video.ledger import Job, State
from prefect_video.pipeline.steps.spans import traced_step
from prefect_video.pipeline.steps.store_identity import claim_store
from prefect_video.session import Session, SessionEvent
from prefect_video.storage import AssetDraft, LedgerReference, publish_video

FRESH: Final = timedelta(seconds=2)
"""Age up to which a job is published as it was read: no other process has taken it over since, as leases are longer."""


@traced_step("store")
async def store(session: Session, job: Job, downloaded: Downloaded, *, accepted: bool = False) -> Job:
    """Publish a downloaded video with its sidecar and thumbnail, and mark its job stored.

    Args:
        session: The store and the ledger.
        job: The job.
        downloaded: The file.
        accepted: A human has accepted it: its job may be lost or expired.

    Raises:
        StoreError: The store cannot be written; the job stays completed and can be stored later.
        LedgerFileUnsafe: It is stored, and recorded in a file that is no longer the ledger.
    """
    if datetime.now(UTC) - job.updated_at > FRESH:
        # Read again: a download may have taken minutes, and another process have stored it since.
        job = await session.ledger.jobs.get(job.id)
    if job.state is State.STORED and job.asset:
        return job
    media = downloaded.media
    if media is None:
        media = await decode_in_thread(probe, downloaded.path)
    promised = session.provider.capabilities_for(job.shot).content_credentials
    credentials = await _read_credentials(downloaded, media, promised=promised)
    session.notify(SessionEvent.BEFORE_PUBLISH, job)
    try:
        store_id = await claim_store(session)
        draft = asset_draft(job, session.ledger.identity)
        asset = await publish_video(session.store, downloaded, media, draft=draft, credentials=credentials)
    except StoreError as error:
        session.notify(SessionEvent.NOT_PUBLISHED, job, str(error))
        raise
    session.notify(SessionEvent.PUBLISHED, job)
    job = await session.ledger.jobs.record_stored(
        job.id, asset, store_id=store_id, store=session.store_name, accepted=accepted
    )
    # Last: video and sidecar are safe, but a run whose ledger no other process can read must not end as a success.
    session.ledger.require_file()
    await asyncio.to_thread(downloaded.path.unlink, missing_ok=True)
    session.notify(SessionEvent.STORED, job)
    return job


async def _read_credentials(downloaded: Downloaded, media: Media, *, promised: bool) -> ContentCredentials | None:
    """Read the C2PA manifest from the provider's own bytes, which are stored untouched; any edit would lose it."""
    if not media.may_be_signed:
        return no_content_credentials(promised=promised)
    return await asyncio.to_thread(read_content_credentials, downloaded.path, promised=promised)


def asset_draft(job: Job, ledger_id: str) -> AssetDraft:
    """Draft the asset of a job, for the sidecar to name the ledger that paid."""
    return AssetDraft(
        job_id=job.id,
        project=job.project,
        shot_id=job.shot.id,
        take=job.take,
        fingerprint=job.fingerprint,
        prompt=job.shot.prompt,
        model=job.shot.model,
        provider=job.provider,
        generation_id=job.generation_id or "",
        cost_usd=job.actual_usd,
        origin="by hand" if job.provider == MANUAL else "generated",
        ledger=LedgerReference(
            id=ledger_id,
            job=job.id,
            project=job.project,
            environment=job.environment,
            account=job.account,
            credentials=job.credentials,
            key_fingerprint=job.key_fingerprint,
            shot=job.shot,
            reserved_usd=job.reserved_usd,
            reserved_at=job.created_at,
        ),
    )
