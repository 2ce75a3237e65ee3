"""Copies: a stored video of another project or store is copied into the folder of the project that requests it."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_video.assets import Asset
from prefect_video.ledger import ClaimOutcome, ClaimResult, Job, JobRequest
from prefect_video.pipeline.steps.store import asset_draft
from prefect_video.pipeline.steps.store_check import claim_store
from prefect_video.session import Session
from prefect_video.storage import copy_video, sizes_anywhere


async def load_copies(session: Session, claims: Sequence[ClaimResult]) -> dict[tuple[str, str], Asset]:
    """Load the copies that earlier runs made in the project's folder, by (job id, shot id), with few queries."""
    hits = [(claim.job, claim.request) for claim in claims if claim.kind is ClaimOutcome.STORED and claim.job]
    foreign = [(job, job_request) for job, job_request in hits if not _is_in_project(session, job, job_request)]
    copied: dict[tuple[str, str], Asset] = {}
    for project in {job_request.project for _, job_request in foreign}:
        known = await session.ledger.jobs.copies([job.id for job, _ in foreign], project)
        sizes = await sizes_anywhere(session.store, [asset.uri for asset in known.values()])
        copied |= {key: asset for key, asset in known.items() if sizes.get(asset.uri) == asset.bytes}
    return copied


async def copy_to_project(session: Session, job: Job, asset: Asset, job_request: JobRequest) -> Asset:
    """Return the asset of a stored job in the folder of the requesting project, copied there where it is elsewhere.

    The copy is made on the server's side where the store can do that.

    Raises:
        StoreError: It cannot be copied; the original is unchanged.
    """
    if _is_in_project(session, job, job_request):
        return asset
    draft = asset_draft(job, session.ledger.identity).model_copy(
        update={"project": job_request.project, "shot_id": job_request.shot.id, "take": job_request.take}
    )
    await claim_store(session.ledger, session.store)
    async with session.download_slots:
        copied = await copy_video(session.store, asset, draft=draft)
    await session.ledger.jobs.record_copy(job.id, job_request.project, job_request.shot.id, copied)
    return copied


def _is_in_project(session: Session, job: Job, job_request: JobRequest) -> bool:
    return job.project == job_request.project and job.asset is not None and session.store.owns(job.asset.uri)
