"""Flow that makes the pages of a store's projects again."""

from __future__ import annotations

from prefect import flow

from prefect_video.gallery import publish_gallery, publish_index
from prefect_video.session import SessionRef
from prefect_video.tasks import BlockResolver, open_ledger


@flow(name="publish-gallery")
async def publish_pages(project: str | None = None, store: str | None = None, ledger: str | None = None) -> list[str]:
    """Make the page and the manifest of projects from ledger and store, and the page that lists them; buys nothing.

    Runs make their project's page when they end; this does so for what `collect` has finished since.

    Args:
        project: Only this project's page; by default those of all projects of the ledger that are in the store.
        store: As for `generate_project`.
        ledger: As for `generate_project`.

    Returns:
        The addresses of the pages, the list of projects last.
    """
    async with open_ledger(ledger) as opened:
        videos = await BlockResolver().store(SessionRef.from_names(None, store, ledger).store)
        try:
            known = {row.key for row in await opened.spend.report(by="project")}
            names = [project] if project else [name for name in sorted(await videos.folders()) if name in known]
            pages = [(await publish_gallery(opened, videos, name)).page_uri for name in names]
            index, _ = await publish_index(videos)
        finally:
            await videos.aclose()
    return [*pages, index]
