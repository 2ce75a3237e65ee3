"""Accept: store a rejected video as it is, as a human has decided."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

from prefect_video.downloads import probe
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Job, State
from prefect_video.pipeline.steps.store import asset_draft, store
from prefect_video.session import Session
from prefect_video.storage import delete_rejected, fetch_rejected


async def accept_rejected(session: Session, job: Job) -> Job:
    """Publish the rejected video of a held job, with the reasons as notes, and mark the job stored.

    Raises:
        InvalidInput: The job is not held with a video.
        InvalidVideo: The file cannot be played.
        StoreError: The file is missing or damaged, or the store cannot be written.
    """
    if job.state is not State.COMPLETED or job.hold_reason is None:
        raise InvalidInput(
            f"job {job.id} is {job.state.value}: --accept is for one that is held because its video is not as requested"
        )
    draft = asset_draft(job, session.ledger.identity)
    with tempfile.TemporaryDirectory(prefix="prefect-video-") as folder:
        fetched = await fetch_rejected(session.store, draft, Path(folder))
        media = await asyncio.to_thread(probe, fetched.path)
        job = await store(session, job, replace(fetched, media=media))
    await delete_rejected(session.store, draft)
    return job
