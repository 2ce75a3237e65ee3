"""Stores by URL, and access to files of any store by URI."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from prefect_video._shield import run_in_thread
from prefect_video.errors import InvalidInput
from prefect_video.storage.base import Store, guess_content_type
from prefect_video.storage.links import LinkOptions


def open_store(url: str, *, options: Mapping[str, Any] | None = None) -> Store:
    """Open a store; no request is made yet.

    Args:
        url: `file:///absolute/folder`, a path, or `s3://bucket/prefix`.
        options: For S3: `key`, `secret`, `token`, `profile`, `endpoint_url`, `region`, `anon`, `client_kwargs`,
            `config_kwargs`, `s3_additional_kwargs`. Missing ones come from the environment, as for every AWS
            tool (`AWS_ENDPOINT_URL` too). For every store `public_base_url`, for S3 `link_hours`: see `LinkOptions`.

    Raises:
        InvalidInput: The URL or an option is not valid.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    rest = dict(options or {})
    links = LinkOptions.take(rest)
    if scheme == "s3":
        # Imported here: S3's client takes longer to import than all the rest, and a folder does not need it.
        from prefect_video.storage.s3 import S3Store

        return S3Store.open(url, rest, links)
    if scheme in ("", "file"):
        from prefect_video.storage.local import LocalStore

        if rest or links.link_hours:
            refused = sorted([*rest, *(["link_hours"] if links.link_hours else [])])
            raise InvalidInput(f"store {url}: a local folder takes no options ({', '.join(refused)})")
        return LocalStore.open(url, links)
    raise InvalidInput(f"store of scheme {scheme!r}: use file:///folder, a path, or s3://bucket/prefix")


def open_store_for(uri: str) -> Store:
    """Open the widest store that contains a file, with the environment's settings.

    Raises:
        InvalidInput: No store can hold the URI.
    """
    parts = urlsplit(uri)
    store = open_store(f"{parts.scheme or 'none'}://{parts.netloc}{'/' if parts.scheme == 'file' else ''}")
    if not store.owns(uri):
        raise InvalidInput(f"{uri}: not the URI of a stored file")
    return store


async def exists_anywhere(store: Store, uris: Collection[str]) -> set[str]:
    """Return those of the URIs that exist, in whatever store.

    Raises:
        InvalidInput: No store can hold one of the URIs.
        StoreError: A store cannot be reached or read.
    """
    return set(await sizes_anywhere(store, uris))


async def sizes_anywhere(store: Store, uris: Collection[str]) -> dict[str, int]:
    """Return the sizes in bytes of those URIs that exist, in whatever store.

    Args:
        store: The store of all URIs that it reaches.
        uris: The URIs; those that `store` does not reach are looked up in stores opened for them.

    Raises:
        InvalidInput: No store can hold one of the URIs.
        StoreError: A store cannot be reached or read.
    """
    found = await store.sizes([uri for uri in uris if store.reaches(uri)])
    foreign_stores: dict[str, Store] = {}
    foreign_uris: dict[str, list[str]] = {}
    for uri in uris:
        if not store.reaches(uri):
            foreign = open_store_for(uri)
            foreign_stores.setdefault(foreign.url, foreign)
            foreign_uris.setdefault(foreign.url, []).append(uri)
    for url, foreign in foreign_stores.items():
        try:
            found |= await foreign.sizes(foreign_uris[url])
        finally:
            await foreign.aclose()
    return found


async def read_sha256(store: Store, uri: str) -> str:
    """Return the SHA-256 of a file of any store, read in pieces.

    Raises:
        InvalidInput: No store can hold the URI.
        StoreError: The store cannot be read.
    """
    reader = store if store.reaches(uri) else open_store_for(uri)
    digest = hashlib.sha256()
    try:
        async for chunk in reader.read_chunks(uri):
            await run_in_thread(digest.update, chunk)
    finally:
        if reader is not store:
            await reader.aclose()
    return digest.hexdigest()


async def fetch_anywhere(store: Store, uri: str, destination: Path) -> None:
    """Copy a file of any store to a local path.

    Raises:
        InvalidInput: No store can hold the URI.
        StoreError: The store cannot be read.
    """
    if store.owns(uri):
        await store.fetch(uri, destination)
        return
    foreign = open_store_for(uri)
    try:
        await foreign.fetch(uri, destination)
    finally:
        await foreign.aclose()


async def copy_between(store: Store, uri: str, relative: PurePosixPath) -> str:
    """Publish a copy of a file of any store, on the server's side where the target reaches it.

    Returns:
        The copy's URI.

    Raises:
        InvalidInput: No store can hold the URI, or the path is not a plain relative path.
        StoreError: A store cannot be read or written.
    """
    if store.reaches(uri):
        return await store.copy(uri, relative)
    foreign = open_store_for(uri)
    try:
        with TemporaryDirectory(prefix="prefect-video-") as folder:
            spool = Path(folder) / "copy"
            await foreign.fetch(uri, spool)
            return await store.publish(spool, relative, content_type=guess_content_type(relative))
    finally:
        await foreign.aclose()
