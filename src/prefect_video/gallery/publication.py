"""Publication of a project's manifest and page in its folder of the store, and of the index page at the store's root.

Both are derived from the ledger and can be made again at any time; like every file of a store they are replaced in one
step, and their names are never those of a video.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import ValidationError

from prefect_video._shield import run_in_thread
from prefect_video.errors import InvalidInput
from prefect_video.film import StoredFilm
from prefect_video.gallery.manifest import MANIFEST_NAME, PAGE_NAME, FilmRecord, Manifest, read_manifest, write_manifest
from prefect_video.gallery.manifest_builder import ProjectFacts, TakeKey, TakeOutcome, build_manifest
from prefect_video.gallery.page import render_index, render_page
from prefect_video.ledger import Ledger
from prefect_video.projects import Project
from prefect_video.storage import NewFile, Store, guess_content_type

_READS_AT_ONCE: Final = 16


@dataclass(frozen=True)
class PublishedGallery:
    """Files of a project that were published.

    Attributes:
        manifest: The content of the manifest.
        manifest_uri: Its address.
        page_uri: Address of the page.
    """

    manifest: Manifest
    manifest_uri: str
    page_uri: str


def is_derived(store: Store, uri: str) -> bool:
    """Return whether a file of a store is one that is made here: a project's manifest or page, or the index page."""
    folder, _, name = uri.removeprefix(f"{store.url}/").rpartition("/")
    return (name == PAGE_NAME and "/" not in folder) or (name == MANIFEST_NAME and folder != "" and "/" not in folder)


async def publish_gallery(
    ledger: Ledger,
    store: Store,
    name: str,
    *,
    project: Project | None = None,
    outcomes: Mapping[TakeKey, TakeOutcome] | None = None,
    only_changes: bool = False,
) -> PublishedGallery:
    """Publish the manifest and the page of a project.

    Args:
        ledger: The ledger, which says what was requested, paid and stored.
        store: The store.
        name: Name of the project.
        project: The project file, for order, budget and shots that no run has begun; else as the last manifest says.
        outcomes: What the run that has just ended says of its takes.
        only_changes: Write nothing where the published manifest says the same, but for the time at which it was made.

    Raises:
        InvalidInput: Neither the ledger, nor the store, nor the caller knows the project.
        LedgerError: The ledger cannot be read.
        StoreError: The store cannot be read or written.
    """
    facts = await _read_facts(ledger, store, name, project, outcomes or {})
    manifest = _build_manifest(facts, ledger, store)
    manifest_uri, page_uri = (store.uri(PurePosixPath(name, file)) for file in (MANIFEST_NAME, PAGE_NAME))
    if only_changes and facts.previous and _says_the_same(manifest, facts.previous) and await store.size(page_uri):
        return PublishedGallery(facts.previous, manifest_uri, page_uri)
    content = {MANIFEST_NAME: write_manifest(manifest), PAGE_NAME: await run_in_thread(render_page, manifest)}
    await _publish(store, {PurePosixPath(name, file): text for file, text in content.items()})
    return PublishedGallery(manifest, manifest_uri, page_uri)


async def compile_manifest(
    ledger: Ledger,
    store: Store,
    name: str,
    *,
    project: Project | None = None,
    outcomes: Mapping[TakeKey, TakeOutcome] | None = None,
) -> Manifest:
    """Build the manifest of a project without publishing it; arguments and errors as of `publish_gallery`."""
    return _build_manifest(await _read_facts(ledger, store, name, project, outcomes or {}), ledger, store)


def _build_manifest(facts: ProjectFacts, ledger: Ledger, store: Store) -> Manifest:
    if not (facts.jobs or facts.copies or facts.project or facts.previous):
        raise InvalidInput(
            f"project {facts.name!r}: neither the ledger {ledger.url_label} nor the store {store.url} knows it"
        )
    made_at = datetime.now(UTC).replace(microsecond=0)
    return build_manifest(facts, store, made_at=made_at, generator=f"prefect-video {version('prefect-video')}")


def _says_the_same(manifest: Manifest, previous: Manifest) -> bool:
    return manifest.model_copy(update={"made_at": previous.made_at}) == previous


async def publish_index(store: Store) -> tuple[str, list[Manifest]]:
    """Publish the page that lists the projects of a store; return its address and the manifests that it shows.

    Raises:
        StoreError: The store cannot be read or written.
    """
    slots = asyncio.Semaphore(_READS_AT_ONCE)

    async def read_one(folder: str) -> Manifest | None:
        async with slots:
            return await load_manifest(store, folder)

    found = await asyncio.gather(*map(read_one, await store.folders()))
    manifests = [manifest for manifest in found if manifest]
    page = await run_in_thread(render_index, manifests)
    (uri,) = await _publish(store, {PurePosixPath(PAGE_NAME): page})
    return uri, manifests


async def load_manifest(store: Store, project: str) -> Manifest | None:
    """Read the manifest in a project's folder; None where there is none, or it is not that project's.

    Raises:
        StoreError: The store cannot be read.
    """
    try:
        content = await store.read_bytes(f"{store.url}/{project}/{MANIFEST_NAME}")
    except FileNotFoundError:
        return None
    manifest = read_manifest(content)
    return manifest if manifest and manifest.project == project else None


async def _read_facts(
    ledger: Ledger, store: Store, name: str, project: Project | None, outcomes: Mapping[TakeKey, TakeOutcome]
) -> ProjectFacts:
    jobs = await ledger.jobs.find(project=name, limit=None)
    copied = await ledger.stores.copies_into(name)
    originals = {job.id: job for job in await ledger.jobs.get_many(job_id for job_id, _ in copied)} if copied else {}
    spend = await ledger.spend.report(by="project", project=name)
    return ProjectFacts(
        name=name,
        ledger=ledger.identity,
        store_id=await store.read_identity(),
        jobs=jobs,
        copies=[(originals[job_id], asset) for job_id, asset in copied if job_id in originals],
        spend=spend[0] if spend else None,
        project=project,
        outcomes=outcomes,
        choices=await ledger.choices.read(name, environment=jobs[0].environment) if jobs else {},
        film=await _find_film(store, name) if project is None or project.cut else None,
        previous=await load_manifest(store, name),
    )


async def _find_film(store: Store, project: str) -> FilmRecord | None:
    """Read the record of a project's latest final cut, as a file of its folder; None where there is none."""
    try:
        film = StoredFilm.model_validate_json(await store.read_bytes(f"{store.url}/{project}/film.json"))
    except (FileNotFoundError, ValidationError):
        return None
    # The record may name another address of the store: its files lie side by side.
    return FilmRecord(
        path=film.uri.rpartition("/")[2],
        thumbnail=film.thumbnail_uri.rpartition("/")[2],
        **film.model_dump(include={"sha256", "bytes", "duration_seconds", "width", "height"}),
        content_credentials=film.content_credentials,
    )


async def _publish(store: Store, content: Mapping[PurePosixPath, bytes]) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="prefect-video-") as folder:
        files = []
        for number, (path, text) in enumerate(content.items()):
            spool = Path(folder) / str(number)
            await run_in_thread(spool.write_bytes, text)
            files.append(NewFile(spool, path, guess_content_type(path)))
        return await store.publish_all(files)
