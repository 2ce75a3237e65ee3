"""What every store offers, and how a store is opened from its URL."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from prefect_video.errors import InvalidInput

STALE_SECONDS: Final = 24 * 3600.0
"""Age at which an unfinished upload or temporary file cannot belong to a live process any more."""

_COMPONENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
_COMPONENT_LIMIT: Final = 200  # leaves room, below the usual 255, for what a temporary name adds


class Store(Protocol):
    """A place for files that are visible whole or not at all.

    URIs are absolute (`file:///…`, `s3://bucket/key`) and do not expire. Every method raises `StoreError`
    when the store cannot be reached, read or written; the message names cause and remedy.

    Attributes:
        url: Address of the store, without credentials.
    """

    url: str

    async def publish(self, spool: Path, relative: PurePosixPath, *, content_type: str) -> str:
        """Makes a local file visible under a relative path, atomically; replaces what is there.

        When it raises, or is cancelled, nothing of the file is visible and nothing is left over. (A cancellation
        that comes with the very last step may find the file published: whole, too.)

        Returns:
            The file's URI.

        Raises:
            InvalidInput: The path is not a plain relative path.
        """

    async def fetch(self, uri: str, destination: Path) -> None:
        """Copies a stored file to a local path."""

    async def read_bytes(self, uri: str) -> bytes:
        """Reads a small file, such as a sidecar.

        Raises:
            FileNotFoundError: There is no such file.
        """

    async def size(self, uri: str) -> int | None:
        """Size of a file in bytes; None when there is no such file."""

    async def exists_many(self, uris: Collection[str]) -> set[str]:
        """Those of the URIs that exist, in few requests; URIs of other stores are looked up there."""

    async def list_files(self, folder: PurePosixPath | None = None) -> list[str]:
        """URIs of the published files below a folder, or of all; none where there is no such folder."""

    async def copy(self, uri: str, relative: PurePosixPath) -> str:
        """Publishes a copy of a stored file, on the server's side where it can; from any other store too.

        Returns:
            The copy's URI.
        """

    async def delete(self, uri: str) -> None:
        """Removes a file of this store; nothing happens when it is not there."""

    def uri(self, relative: PurePosixPath) -> str:
        """The URI that a relative path has, or would have, in this store.

        Raises:
            InvalidInput: The path is not a plain relative path.
        """

    def owns(self, uri: str) -> bool:
        """Whether the URI lies within this store."""

    async def check(self) -> None:
        """Makes sure that the store can be written, by writing and removing a tiny file."""

    async def sweep(self) -> int:
        """Removes what dead processes left unfinished more than a day ago; says how many."""

    async def aclose(self) -> None:
        """Closes connections."""


def open_store(url: str, *, options: Mapping[str, Any] | None = None) -> Store:
    """Opens a store; no request is made yet.

    Args:
        url: `file:///absolute/folder`, a path, or `s3://bucket/prefix`.
        options: For S3: `key`, `secret`, `token`, `profile`, `endpoint_url`, `region`, `anon`, `client_kwargs`,
            `config_kwargs`, `s3_additional_kwargs`. What is not given comes from the environment, as for
            every AWS tool (`AWS_ENDPOINT_URL` too).

    Raises:
        InvalidInput: The URL or an option is not understood.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme == "s3":
        from prefect_video.storage.s3 import S3Store

        return S3Store.open(url, options or {})
    if scheme in ("", "file"):
        from prefect_video.storage.local import LocalStore

        if options:
            raise InvalidInput(f"store {url}: a local folder takes no options ({', '.join(sorted(options))})")
        return LocalStore.open(url)
    raise InvalidInput(f"store of scheme {scheme!r}: use file:///folder, a path, or s3://bucket/prefix")


def store_of(uri: str) -> Store:
    """Opens the store that a URI of another store lies in, with the environment's settings.

    Raises:
        InvalidInput: The URI is of no kind that can be opened.
    """
    parts = urlsplit(uri)
    store = open_store(f"{parts.scheme or 'none'}://{parts.netloc}{'/' if parts.scheme == 'file' else ''}")
    if not store.owns(uri):
        raise InvalidInput(f"{uri}: not the URI of a stored file")
    return store


async def find_elsewhere(uris: Collection[str]) -> set[str]:
    """Those of the URIs that exist, looked up in whatever stores they lie in, store by store."""
    found: set[str] = set()
    stores: dict[str, Store] = {}
    wanted: dict[str, list[str]] = {}
    for uri in uris:
        store = store_of(uri)
        stores.setdefault(store.url, store)
        wanted.setdefault(store.url, []).append(uri)
    for url, store in stores.items():
        try:
            found |= await store.exists_many(wanted[url])
        finally:
            await store.aclose()
    return found


def checked_path(relative: PurePosixPath) -> PurePosixPath:
    """Lets only plain relative paths pass: no `..`, no root, no hidden or foreign names.

    Raises:
        InvalidInput: The message names the path and the part that is wrong.
    """
    if relative.is_absolute() or not relative.parts:
        raise InvalidInput(f"path {str(relative)!r}: must be relative and not empty")
    for part in relative.parts:
        plain_name(part)
    return relative


def plain_name(name: str) -> str:
    """Lets only names pass that mean themselves in every store: no separators, not hidden, no double dots.

    Raises:
        InvalidInput: The message names the name.
    """
    if not _COMPONENT.fullmatch(name) or len(name) > _COMPONENT_LIMIT:
        raise InvalidInput(
            f"{name[:_COMPONENT_LIMIT]!r} is no plain file name: letters, digits, '_', '-' and single dots,"
            f" at most {_COMPONENT_LIMIT} characters"
        )
    return name
