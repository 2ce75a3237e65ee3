"""Flow that compares a store with the ledger."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.context import FlowRunContext

from prefect_video._clean_text import clean_text
from prefect_video._counted import counted
from prefect_video.errors import LedgerBehindStore, StoreOutage
from prefect_video.pipeline import Verification, verify_store
from prefect_video.session import STORE_BLOCK, SessionRef
from prefect_video.tasks import BlockResolver, artifact_key, open_ledger, use_session


@flow(name="verify-store")
async def verify_videos(store: str | None = None, ledger: str | None = None, repair: bool = False) -> Verification:
    """Compare every stored video with the ledger: presence, size, SHA-256, sidecar; buys nothing.

    Args:
        store: As for `generate_project`.
        ledger: As for `generate_project`.
        repair: Fetch again, free, what the provider still has; rewrite missing sidecars and copies.

    Returns:
        What was compared, and what was repaired.

    Raises:
        StoreOutage: It is not the store that the ledger knows, or a video is missing, damaged and not repaired.
        LedgerBehindStore: The store holds videos that this ledger has paid for and does not know.
    """
    ref = SessionRef.from_names(None, store, ledger)
    async with open_ledger(ledger) as opened:
        videos = await BlockResolver().store(ref.store)
        try:
            verification = await verify_store(
                opened,
                videos,
                name=ref.store if ref.store.startswith(f"{STORE_BLOCK}/") else None,
                open_session=(lambda job: use_session(ref.model_copy(update={"provider": job.credentials})))
                if repair
                else None,
            )
        finally:
            await videos.aclose()
    await _publish_flaws(verification)
    _require_whole(verification, ref.store)
    return verification


async def _publish_flaws(verification: Verification) -> None:
    """Write a table of the videos that are or were not whole, where there are any."""
    if not verification.flaws or not FlowRunContext.get():
        return
    await acreate_table_artifact(
        key=artifact_key("verified", verification.store),
        table=[
            {
                "project": clean_text(flaw.project),
                "shot": clean_text(flaw.shot),
                "problem": flaw.problem,
                "detail": clean_text(flaw.detail),
                "repaired": "yes" if flaw.repaired else "no",
                "error": clean_text(flaw.error or ""),
                "video": clean_text(flaw.uri),
            }
            for flaw in verification.flaws
        ],
        description=f"Videos of {clean_text(verification.store)}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _require_whole(verification: Verification, name: str) -> None:
    """Raise an error where something is not whole: the run of a schedule must show it."""
    if verification.is_whole:
        return
    if verification.outage:
        raise StoreOutage(verification.outage)
    if verification.unrecorded:
        raise LedgerBehindStore(
            f"{name} holds {counted(len(verification.unrecorded), 'video')} that this ledger has paid for and does not"
            f" know: it is an old backup. Before anything is bought, run: {verification.recover_command}"
        )
    broken = [
        f"{flaw.project}/{flaw.shot}: {flaw.error or flaw.detail}" for flaw in verification.flaws if not flaw.repaired
    ]
    lines = broken + [f"{flaw.project}/{flaw.path}: {flaw.detail}" for flaw in verification.manifest_flaws]
    raise StoreOutage(
        f"{len(broken)} of {counted(verification.assets, 'video')} in {name} not whole; lines of manifests that do not"
        f" hold: {len(lines) - len(broken)}; the first one: {lines[0]}. Run this flow with repair: it fetches"
        " videos again, free, where the provider still has them, and makes manifests again"
    )
