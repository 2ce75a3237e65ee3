"""Copies: a stored video of another project or store is copied into the folder of the project that requests it."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_video.assets import Asset
from prefect_video.errors import StoreError, StoreOutage
from prefect_video.ledger import ClaimOutcome, ClaimResult, Job, JobRequest
from prefect_video.pipeline.steps.store import asset_draft
from prefect_video.pipeline.steps.store_identity import claim_store, repair_command
from prefect_video.pipeline.steps.whole_copies import sizes_in_reach
from prefect_video.session import Session
from prefect_video.storage import copy_video


async def load_copies(session: Session, claims: Sequence[ClaimResult]) -> dict[tuple[str, str], Asset]:
    """Load the copies that earlier runs made in the project's folder of this store, by (job id, shot id)."""
    hits = [(claim.job, claim.request) for claim in claims if claim.kind is ClaimOutcome.STORED and claim.job]
    foreign = [(job, job_request) for job, job_request in hits if not _is_in_project(session, job, job_request)]
    copied: dict[tuple[str, str], Asset] = {}
    for project in {job_request.project for _, job_request in foreign}:
        known = await session.ledger.jobs.copies([job.id for job, _ in foreign], project)
        known = {key: asset for key, asset in known.items() if session.store.owns(asset.uri)}
        sizes = await session.store.sizes([asset.uri for asset in known.values()])
        copied |= {key: asset for key, asset in known.items() if sizes.get(asset.uri) == asset.bytes}
    return copied


async def copy_to_project(session: Session, job: Job, asset: Asset, job_request: JobRequest) -> Asset:
    """Return the asset of a stored job in the folder of the requesting project, copied there where it is elsewhere.

    The copy is made on the server's side where the store can do that.

    Raises:
        StoreOutage: The original is in another store, and missing or out of reach.
        StoreError: It cannot be copied; the original is unchanged.
    """
    if _is_in_project(session, job, job_request):
        return asset
    draft = asset_draft(job, session.ledger.identity).model_copy(
        update={"project": job_request.project, "shot_id": job_request.shot.id, "take": job_request.take}
    )
    await claim_store(session)
    try:
        async with session.download_slots:
            copied = await copy_video(session.store, asset, draft=draft)
    except StoreError as error:
        await _require_reach(session, job, asset, error)
        raise
    await session.ledger.jobs.record_copy(job.id, job_request.project, job_request.shot.id, copied)
    return copied


async def _require_reach(session: Session, job: Job, asset: Asset, error: StoreError) -> None:
    """Say what to do where a copy could not be made because the other store is not mounted here, or gone."""
    if (await sizes_in_reach(session.store, [asset.uri])).get(asset.uri) != asset.bytes:
        raise StoreOutage(
            f"shot {job.shot.id!r}: its video {asset.uri} is in the store {job.store}, and is not whole there or out of"
            " reach from here. Nothing was bought. Mount that store, or correct its address, and run again. If its"
            f" files are deleted: `{repair_command(session.ledger, job.store)}` fetches again, free, what the provider"
            " still has. If that store is gone for good: a run with --rebuy-missing does the same for the store in use,"
            " and buys the rest"
        ) from error


def _is_in_project(session: Session, job: Job, job_request: JobRequest) -> bool:
    """Return whether a job is of the project that requests it, and its file in that project's folder."""
    if job.project != job_request.project or job.asset is None or not session.store.owns(job.asset.uri):
        return False
    return session.store.canonical_uri(job.asset.uri).startswith(f"{session.store.url}/{job.project}/")
