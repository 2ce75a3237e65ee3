"""Interface of every store, and the names that files may have in one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Final, NamedTuple, Protocol

from prefect_video.errors import InvalidInput, StoreError

STALE_SECONDS: Final = 24 * 3600.0
"""Age from which an unfinished upload or temporary file cannot belong to a live process."""

_COMPONENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
_COMPONENT_LIMIT: Final = 200  # leaves room, below the usual 255, for what a temporary name adds


class StoredFile(NamedTuple):
    """File of a store.

    Attributes:
        uri: Its URI.
        bytes: Its size.
    """

    uri: str
    bytes: int


class NewFile(NamedTuple):
    """Content that is to be published as a file.

    Attributes:
        source: The local file that holds the content, or the content itself.
        relative: Path below the store's root.
        content_type: Media type that the store reports to readers, if it keeps one.
        sha256: Hex digest that the file was checked with; taken again from the bytes that are published.
    """

    source: Path | bytes
    relative: PurePosixPath
    content_type: str
    sha256: str | None = None


def open_source(source: Path | bytes) -> IO[bytes]:
    """Open what a new file is published from, for reading."""
    return BytesIO(source) if isinstance(source, bytes) else source.open("rb")


class SourceChanged(StoreError):
    """A local file that is not the one that was checked. Nothing was published; download it again."""

    def __init__(self, relative: PurePosixPath) -> None:
        super().__init__(
            f"{relative.name}: changed after it was checked, so that it was not published; collect it again"
        )


class Store(Protocol):
    """Place for files that are visible whole or not at all.

    URIs are absolute (`file:///…`, `s3://bucket/key`) and do not expire. Every method raises `StoreError`
    when the store cannot be reached, read or written; the message names cause and remedy.

    Attributes:
        url: Address of the store, without credentials.
    """

    url: str

    async def publish(
        self, spool: Path, relative: PurePosixPath, *, content_type: str, sha256: str | None = None
    ) -> str:
        """Publish a local file under a relative path, atomically; replace an existing one.

        If it raises, or is cancelled, no part of the file is visible and nothing is left over. (A cancellation during
        the very last step may find the file published, whole.)

        Args:
            spool: The local file.
            relative: Path below the store's root.
            content_type: Media type that the store reports to readers, if it keeps one.
            sha256: Hex digest that the file was checked with; taken again from the bytes that are published.

        Returns:
            The file's URI.

        Raises:
            InvalidInput: The path is not a plain relative path.
            SourceChanged: The file has another digest.
        """

    async def publish_all(self, files: Sequence[NewFile]) -> list[str]:
        """Publish files that belong together, each as `publish` does; the last is visible only once the others are.

        If it raises, files before the last may be visible, each whole; so may the last one, where a cancellation or an
        error came during the very last step.

        Returns:
            The files' URIs, in their order.

        Raises:
            InvalidInput: A path is not a plain relative path.
            SourceChanged: A file has another digest.
        """

    async def fetch(self, uri: str, destination: Path) -> None:
        """Copy a stored file to a local path."""

    async def read_bytes(self, uri: str) -> bytes:
        """Read a small file, such as a sidecar.

        Raises:
            FileNotFoundError: There is no such file.
        """

    async def size(self, uri: str) -> int | None:
        """Return the size of a file in bytes; None if there is no such file."""

    async def read_identity(self) -> str | None:
        """Return the identity in the store's marker; None if the store has no marker, or does not exist yet."""

    async def create_identity(self, store_id: str) -> str:
        """Write a marker with an identity unless there is one, and return the store's identity afterwards.

        Not every server can create without replacing: concurrent writers must agree on the identity beforehand.
        """

    async def find_enclosing(self) -> str | None:
        """Return the address of the nearest store that this one's root lies in, by its marker; None for none."""

    async def find_enclosed(self) -> list[str]:
        """Return the addresses of the stores directly below this one's root, by their markers."""

    async def sizes(self, uris: Collection[str]) -> dict[str, int]:
        """Return the sizes in bytes of those URIs that exist, in few requests.

        Raises:
            InvalidInput: The store does not reach one of them.
        """

    def read_chunks(self, uri: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Read a file in chunks, at constant memory: the bytes from `start` to before `stop`, else to its end."""

    async def folders(self) -> list[str]:
        """Return the names of the folders directly below the root, sorted; a project is one."""

    def files(self, folder: str) -> AsyncIterator[StoredFile]:
        """List the files below a folder, at any depth; "" lists only those directly at the root.

        The marker and unfinished files are left out.
        """

    async def copy(self, uri: str, relative: PurePosixPath) -> str:
        """Publish a copy of a file that this store reaches, on the server's side if the server can.

        Returns:
            The copy's URI.

        Raises:
            InvalidInput: The store does not reach the file.
        """

    async def delete(self, uri: str) -> None:
        """Delete a file of this store; do nothing if it does not exist.

        Raises:
            InvalidInput: The file lies outside of this store.
        """

    def uri(self, relative: PurePosixPath) -> str:
        """Return the URI that a relative path has, or would have, in this store.

        Raises:
            InvalidInput: The path is not a plain relative path.
        """

    async def link(self, uri: str) -> str | None:
        """Return a web address at which a browser opens a file of this store; None where it has none."""

    def owns(self, uri: str) -> bool:
        """Return True if the URI lies within this store."""

    def canonical_uri(self, uri: str) -> str:
        """Return the URI that this store gives to a file of its own, which may be recorded in another spelling.

        Raises:
            InvalidInput: The URI lies outside this store.
        """

    def is_at(self, url: str) -> bool:
        """Return True if a store's URL, in whatever spelling, is the address of this store."""

    def reaches(self, uri: str) -> bool:
        """Return True if the store can read the file: its own, or another one under the same credentials."""

    async def check(self) -> None:
        """Do with a small file what the work does: publish it as a large and as a small one, read it, delete it."""

    async def remove_stale_uploads(self) -> int:
        """Delete what dead processes left unfinished more than a day ago; return the number of deletions."""

    async def aclose(self) -> None:
        """Close the store's connections."""


def validate_path(relative: PurePosixPath) -> PurePosixPath:
    """Return a path if it is a plain relative one: no `..`, no root, only names that `validate_name` accepts.

    Raises:
        InvalidInput: The message names the path and the part that is wrong.
    """
    if relative.is_absolute() or not relative.parts:
        raise InvalidInput(f"path {str(relative)!r}: must be relative and not empty")
    for part in relative.parts:
        validate_name(part)
    return relative


def validate_name(name: str) -> str:
    """Return a name if it means the same in every store: no separators, not hidden, no double dots.

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
    """Return the media type for a file's extension."""
    types = {
        ".mp4": "video/mp4",
        ".jpg": "image/jpeg",
        ".json": "application/json",
        ".html": "text/html; charset=utf-8",
    }
    return types.get(relative.suffix, "application/octet-stream")
