"""`gallery`: the manifest and the page of a project, or the page that lists the projects of a store."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from cyclopts import Parameter

from prefect_video.cli.options import JsonFlag, LedgerOption, StoreOption, find_project, ledger_name
from prefect_video.cli.output import DONE, display_path, print_json, stdout
from prefect_video.cli.sessions import open_ledger, run_async, use_store
from prefect_video.errors import InvalidInput, StoreError
from prefect_video.gallery import MANIFEST_NAME, PAGE_NAME, PublishedGallery, publish_gallery, publish_index
from prefect_video.session import SessionRef
from prefect_video.storage import Store

_FETCHES_AT_ONCE: Final = 8


def gallery(
    project: Annotated[
        str | None,
        Parameter(help="Name of a project, or its project file, which also tells the order and the budget."),
    ] = None,
    /,
    *,
    index: Annotated[
        bool, Parameter(negative="", show_default=False, help="Make the page that lists all projects of the store.")
    ] = False,
    output: Annotated[
        Path | None,
        Parameter(help="Also copy the page, the manifest and what they show to this folder, to be handed on."),
    ] = None,
    store: StoreOption = None,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """Make the page of a project from ledger and store, beside its videos. Buys nothing.

    `run` does so at its end. The page opens from a folder or a bucket, and asks nothing of anyone else.

    Try:

        prefect-video gallery coffee-ad

        prefect-video gallery film.yaml --store s3://films/ads

        prefect-video gallery --index
    """
    if project is None and not index:
        raise InvalidInput("gallery: name a project, or give --index for the page of the whole store")
    if output and not project:
        raise InvalidInput("gallery: --output copies one project: name it")
    ref = SessionRef.from_names(None, store, ledger_name(ledger))
    folder = output.expanduser().absolute() if output else None
    pages = run_async(_make(ref, project, index, folder))
    if json:
        print_json(pages)
    else:
        for uri in pages.values():
            stdout().print(display_path(uri), markup=False, soft_wrap=True)
    return DONE


async def _make(ref: SessionRef, project: str | None, index: bool, output: Path | None) -> dict[str, str]:
    """Make what was requested; return the addresses of the pages."""
    pages: dict[str, str] = {}
    async with open_ledger(ref.ledger) as ledger, use_store(ref.store) as store:
        if project:
            name, loaded = find_project(project)
            published = await publish_gallery(ledger, store, name, project=loaded)
            pages |= {"page": published.page_uri, "manifest": published.manifest_uri}
            if output:
                pages["copy"] = await _copy_to(store, published, output)
        if index:
            pages["index"] = (await publish_index(store))[0]
    return pages


async def _copy_to(store: Store, published: PublishedGallery, folder: Path) -> str:
    """Copy a page and all that it shows from the store to a folder; return the address of the copied page."""
    source = published.page_uri.removesuffix(PAGE_NAME)
    videos = [video for video in published.manifest.videos if video.path]
    film = published.manifest.film
    named = [path for video in videos for path in (video.path, video.thumbnail, video.sidecar)]
    named += [film.path, film.thumbnail] if film else []
    # What lies in another folder of the store has no place in this one.
    paths = [path for path in dict.fromkeys(named) if path and ".." not in PurePosixPath(path).parts]
    slots = asyncio.Semaphore(_FETCHES_AT_ONCE)

    async def fetch(path: str) -> None:
        async with slots:
            await store.fetch(store.canonical_uri(f"{source}{path}"), folder / path)

    try:
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        await asyncio.gather(*map(fetch, (*paths, MANIFEST_NAME, PAGE_NAME)))
    except OSError as error:
        raise StoreError(
            f"the page cannot be copied to {folder} ({error.strerror}): give another folder with --output"
        ) from error
    return (folder / PAGE_NAME).as_uri()
