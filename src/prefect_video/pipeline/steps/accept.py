"""Accept: store a rejected video as it is, as a human has decided."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from prefect_video.downloads import decode_in_thread, probe
from prefect_video.errors import InvalidInput, StoreError
from prefect_video.ledger import Job, State, command_line
from prefect_video.pipeline.steps.store import asset_draft, store
from prefect_video.session import Session
from prefect_video.storage import delete_rejected, fetch_rejected

_WITHOUT_VIDEO: Final = frozenset({State.LOST, State.EXPIRED})


async def accept_rejected(session: Session, job: Job) -> Job:
    """Publish the rejected video of a job, with the reasons as notes, and mark the job stored.

    The job is held, or was settled as lost or expired: what was paid and is kept can be accepted at any later time.

    Raises:
        InvalidInput: The job can have no rejected video.
        InvalidVideo: The file cannot be played.
        StoreError: The file is missing or damaged, or the store cannot be written.
    """
    is_held = job.state is State.COMPLETED and job.hold_reason is not None
    if not is_held and job.state not in _WITHOUT_VIDEO:
        raise InvalidInput(
            f"job {job.id} is {job.state.value}: --accept is for one that is held because its video is not as requested"
        )
    draft = asset_draft(job, session.ledger.identity)
    with tempfile.TemporaryDirectory(prefix="prefect-video-") as folder:
        try:
            fetched = await fetch_rejected(session.store, draft, Path(folder))
        except StoreError as error:
            # Another process may have accepted it meanwhile, and deleted what was kept.
            current = await session.ledger.jobs.get(job.id)
            if current.state is State.STORED:
                return current
            raise _missing(session, current, error) from error
        media = await decode_in_thread(probe, fetched.path)
        job = await store(session, job, replace(fetched, media=media, quality=job.quality), accepted=True)
    await delete_rejected(session.store, draft)
    return job


def _missing(session: Session, job: Job, error: StoreError) -> StoreError:
    """Return the error about a kept video that cannot be read, with the way to fetch it again."""
    if job.state is not State.COMPLETED:
        return error
    ledger = session.ledger.command_option
    again, fetch = (
        command_line("resolve", job.id, "--keep-waiting", ledger=ledger),
        command_line("collect", ledger=ledger),
    )
    return StoreError(
        f"shot {job.shot.id!r}: {error}. Mount the store that it was kept in; or fetch it again from {job.provider},"
        f" free: {again}, then {fetch}"
    )
