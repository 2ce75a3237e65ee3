"""Interface of every store, and the names that files may have in it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple, Protocol

from prefect_video.errors import InvalidInput

STALE_SECONDS: Final = 24 * 3600.0
"""Age at which an unfinished upload or temporary file cannot belong to a live process any more."""

_COMPONENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
_COMPONENT_LIMIT: Final = 200  # leaves room, below the usual 255, for what a temporary name adds


class StoredFile(NamedTuple):
    """A file of a store: its URI and its size in bytes."""

    uri: str
    bytes: int


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

    async def read_identity(self) -> str | None:
        """Return the identity that the store's marker holds; None where there is no marker, or nothing at all."""

    async def create_identity(self, store_id: str) -> str:
        """Write a marker with an identity, unless one is there, and return the identity that stands.

        Not every server can refuse to replace: writers that may come at once agree on the identity beforehand.
        """

    async def sizes(self, uris: Collection[str]) -> dict[str, int]:
        """Return the sizes in bytes of those URIs that exist, in few requests.

        Raises:
            InvalidInput: The store does not reach one of them.
        """

    async def exists_many(self, uris: Collection[str]) -> set[str]:
        """Return those of some URIs that exist, in few requests.

        Raises:
            InvalidInput: The store does not reach one of them.
        """

    def read_chunks(self, uri: str) -> AsyncIterator[bytes]:
        """Read a file piece by piece, at constant memory."""

    async def folders(self) -> list[str]:
        """Return the names of the folders directly below the root, sorted; a project is one."""

    def files(self, folder: str) -> AsyncIterator[StoredFile]:
        """List the files below a folder, those of its own sub-folders too; "" lists those directly at the root.

        Markers and unfinished files are left out.
        """

    async def copy(self, uri: str, relative: PurePosixPath) -> str:
        """Publish a copy of a file that this store reaches, on the server's side where it can.

        Returns:
            The copy's URI.

        Raises:
            InvalidInput: The store does not reach the file.
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

    def reaches(self, uri: str) -> bool:
        """Tell whether the store can read the file, its own or one beside it under the same credentials."""

    async def check(self) -> None:
        """Makes sure that the store can be written, by writing and removing a tiny file."""

    async def remove_stale_uploads(self) -> int:
        """Removes what dead processes left unfinished more than a day ago; says how many."""

    async def aclose(self) -> None:
        """Closes connections."""


def checked_path(relative: PurePosixPath) -> PurePosixPath:
    """Lets only plain relative paths pass: no `..`, no root, no hidden or foreign names.

    Raises:
        InvalidInput: The message names the path and the part that is wrong.
    """
    if relative.is_absolute() or not relative.parts:
        raise InvalidInput(f"path {str(relative)!r}: must be relative and not empty")
    for part in relative.parts:
        validate_name(part)
    return relative


def validate_name(name: str) -> str:
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


def guess_content_type(relative: PurePosixPath) -> str:
    """Return the media type that a file's name stands for."""
    known = {".mp4": "video/mp4", ".jpg": "image/jpeg", ".json": "application/json"}
    return known.get(relative.suffix, "application/octet-stream")
