"""Store in a local folder, or in anything mounted as one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar
from urllib.parse import quote_from_bytes, unquote, urlsplit

from prefect_video._shield import run_in_thread, shielded
from prefect_video.errors import InvalidInput, StoreError
from prefect_video.storage.base import (
    STALE_SECONDS,
    NewFile,
    SourceChanged,
    StoredFile,
    open_source,
    validate_path,
)
from prefect_video.storage.links import LinkOptions
from prefect_video.storage.marker import STORE_MARKER, parse_marker, write_marker

_CHUNK_BYTES: Final = 2**20
_BATCH_FILES: Final = 1000
_UNFINISHED: Final = ".unfinished"
_NO_LINKS: Final = LinkOptions()
_RECENT_PATHS: Final = 4096
"""Paths that are kept: a run asks for those of each of its files about ten times."""

_T = TypeVar("_T")


class LocalStore:
    """Store of the files below one folder.

    A file is written under a hidden name and renamed once it is whole and durable. A folder keeps no content types.

    Attributes:
        root: Absolute path of the folder; it is created on first use.
        url: Its `file://` URL.
        links: How its files are reached from a browser.
    """

    def __init__(self, root: Path, links: LinkOptions = _NO_LINKS) -> None:
        self.root = root
        self.links = links
        self.url = root.as_uri()
        self._durable_folders: set[Path] = set()
        self._prefix = os.path.join(root, "")

    @classmethod
    def open(cls, url: str, links: LinkOptions = _NO_LINKS) -> LocalStore:
        """Open a folder by path or `file://` URL; links are followed, so that all its spellings are one store.

        Raises:
            InvalidInput: The URL names another host or nothing.
        """
        path = _read_path(url) if url.lower().startswith("file://") else Path(url).expanduser()
        if not url.strip() or "\0" in url:
            raise InvalidInput("store: the path is empty or unreadable; use a path or file:///folder")
        return cls(Path(os.path.realpath(path)), links)

    async def publish(
        self, spool: Path, relative: PurePosixPath, *, content_type: str, sha256: str | None = None
    ) -> str:
        (uri,) = await self.publish_all([NewFile(spool, relative, content_type, sha256)])
        return uri

    async def publish_all(self, files: Sequence[NewFile]) -> list[str]:
        """Write all files durably before the first gets its name; the names are made durable together.

        A power cut before that may take back the last names (journals keep the order of renames), which the caller has
        not recorded yet.
        """
        uris = [self.uri(file.relative) for file in files]
        copies = [_Copy(file, self._path_in_store(uri)) for file, uri in zip(files, uris, strict=True)]
        stopped = threading.Event()
        try:
            await _run_stoppable(lambda: self._publish_copies(copies, stopped), stopped)
        except BaseException:
            for copy in copies:
                # If it cannot be removed either, the first error says more; `remove_stale_uploads` removes it later.
                with contextlib.suppress(OSError):
                    copy.hidden.unlink()
            raise
        return uris

    def _publish_copies(self, copies: Sequence[_Copy], stopped: threading.Event) -> None:
        folders = dict.fromkeys(copy.target.parent for copy in copies)
        for folder in folders:
            self._translate_errors(folder, partial(self._make_folder, folder))()
        for copy in copies:
            self._translate_errors(copy.target, partial(copy.write, stopped))()
        if stopped.is_set():
            raise _CopyStopped
        for copy in copies:
            self._translate_errors(copy.target, partial(os.replace, copy.hidden, copy.target))()
        # A rename is durable only once its folder is.
        for folder in folders:
            self._translate_errors(folder, partial(self._sync_folder, folder))()

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            self._durable_folders.discard(folder)

    def _sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable, and with the first file that comes into it, the folder's own name."""
        if folder in self._durable_folders:
            _sync_names(folder)
        else:
            _sync_folders(folder, self.root)
            self._durable_folders.add(folder)

    async def fetch(self, uri: str, destination: Path) -> None:
        source = self._path_in_store(uri)
        await run_in_thread(self._translate_errors(source, lambda: shutil.copyfile(source, destination)))

    async def read_bytes(self, uri: str) -> bytes:
        path = self._path_in_store(uri)
        try:
            return await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _build_error(path, error) from error

    async def size(self, uri: str) -> int | None:
        path = self._path_in_store(uri)
        return await asyncio.to_thread(self._translate_errors(path, lambda: _read_size(path)))

    async def read_identity(self) -> str | None:
        marker = self.root / STORE_MARKER
        content = await asyncio.to_thread(self._translate_errors(marker, lambda: _read_if_present(marker)))
        return None if content is None else parse_marker(content, self.url)

    async def create_identity(self, store_id: str) -> str:
        """Write a marker unless there is one, and return the identity afterwards; of concurrent writers one wins."""
        if (existing := await self.read_identity()) is not None:
            return existing
        marker = self.root / STORE_MARKER
        await run_in_thread(
            self._translate_errors(self.root, lambda: _create_exclusively(marker, write_marker(store_id)))
        )
        # Read back, because another writer may have been faster.
        if (identity := await self.read_identity()) is None:
            raise StoreError(f"store {self.url}: the marker that was just written is missing: look at the folder")
        return identity

    async def find_enclosing(self) -> str | None:
        return await asyncio.to_thread(
            lambda: next((parent.as_uri() for parent in self.root.parents if _has_marker(parent)), None)
        )

    async def find_enclosed(self) -> list[str]:
        folders = [self.root / name for name in await self.folders()]
        return await asyncio.to_thread(lambda: [folder.as_uri() for folder in folders if _has_marker(folder)])

    async def sizes(self, uris: Collection[str]) -> dict[str, int]:
        """Return the sizes of those URIs that exist; one thread looks up all."""
        paths = {uri: self._path_in_store(uri) for uri in uris}
        return await asyncio.to_thread(self._translate_errors(self.root, lambda: self._read_sizes(paths)))

    def _read_sizes(self, paths: Mapping[str, Path]) -> dict[str, int]:
        if paths and not self.root.is_dir():
            # An unmounted disk looks like this: if its videos counted as missing, all would be bought again.
            raise StoreError(
                f"the store {self.root} does not exist, and {len(paths)} stored videos should be in it: mount it; or,"
                " if it was deleted on purpose, run with --rebuy-missing"
            )
        sizes = {uri: _read_size(path) for uri, path in paths.items()}
        return {uri: size for uri, size in sizes.items() if size is not None}

    async def read_chunks(self, uri: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        path = self._path_in_store(uri)
        with await run_in_thread(self._translate_errors(path, lambda: path.open("rb"))) as file:
            file.seek(start)
            while (size := _CHUNK_BYTES if stop is None else min(_CHUNK_BYTES, stop - file.tell())) > 0:
                chunk = await run_in_thread(self._translate_errors(path, partial(file.read, size)))
                if not chunk:
                    return
                yield chunk

    async def folders(self) -> list[str]:
        return await asyncio.to_thread(self._translate_errors(self.root, lambda: _list_folders(self.root)))

    async def files(self, folder: str) -> AsyncIterator[StoredFile]:
        """List the files below a folder, in batches, each read in a thread."""
        found = _list_files(self.root, folder)
        while batch := await run_in_thread(
            self._translate_errors(self.root, lambda: list(islice(found, _BATCH_FILES)))
        ):
            for file in batch:
                yield file

    async def copy(self, uri: str, relative: PurePosixPath) -> str:
        if uri == self.uri(relative):
            return uri
        return await self.publish(self._path_in_store(uri), relative, content_type="")

    async def delete(self, uri: str) -> None:
        path = self._path_in_store(uri)
        await asyncio.to_thread(self._translate_errors(path, lambda: path.unlink(missing_ok=True)))

    def uri(self, relative: PurePosixPath) -> str:
        return self.root.joinpath(*validate_path(relative).parts).as_uri()

    async def link(self, uri: str) -> str | None:
        return self.links.public_address(self.url, self.canonical_uri(uri))

    def owns(self, uri: str) -> bool:
        return self._find_path(uri) is not None

    def canonical_uri(self, uri: str) -> str:
        return f"file://{quote_from_bytes(os.fsencode(self._text_path(uri)))}"

    def _find_path(self, uri: str) -> str | None:
        """Return the path of a file of this store, below its root by name; None for a URI of anything else."""
        # Texts, as a project of a thousand shots asks ten thousand times: `Path` would take ten times as long.
        if not uri.startswith("file://"):
            return None
        try:
            path = _read_path(uri)
        except InvalidInput:
            return None
        if self._is_below_root(path):
            return path
        real = os.path.realpath(path)
        return real if self._is_below_root(real) else None

    def _is_below_root(self, path: str) -> bool:
        return path.startswith(self._prefix) and path != self._prefix

    def is_at(self, url: str) -> bool:
        try:
            return url.startswith("file://") and os.path.realpath(_read_path(url)) == str(self.root)
        except InvalidInput:
            return False

    def reaches(self, uri: str) -> bool:
        return self.owns(uri)

    async def check(self) -> None:
        await run_in_thread(self._translate_errors(self.root, lambda: _check_folder(self.root)))

    async def remove_stale_uploads(self) -> int:
        return await asyncio.to_thread(self._translate_errors(self.root, lambda: _remove_stale(self.root)))

    async def aclose(self) -> None:
        """Do nothing: a folder holds no connections."""

    def _path_in_store(self, uri: str) -> Path:
        return Path(self._text_path(uri))

    def _text_path(self, uri: str) -> str:
        path = self._find_path(uri)
        if path is None:
            raise InvalidInput(f"{uri}: lies outside the store {self.url}")
        return path

    def _translate_errors(self, path: Path, action: Callable[[], _T]) -> Callable[[], _T]:
        def run() -> _T:
            try:
                return action()
            except OSError as error:
                raise _build_error(path, error) from error

        return run


class _CopyStopped(Exception):
    """Signal that a copy was stopped by a cancellation."""


async def _run_stoppable(action: Callable[[], _T], stopped: threading.Event) -> _T:
    """Run an action in a thread; when cancelled, stop the thread and wait for its end before raising.

    Otherwise the caller would clean up while the thread still writes, and what it writes would stay behind.
    """
    running = asyncio.ensure_future(asyncio.to_thread(action))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stopped.set()
        await shielded(asyncio.gather(running, return_exceptions=True))
        raise


class _Copy:
    """Copy of a new file, under a hidden name beside the one that it is to have."""

    def __init__(self, file: NewFile, target: Path) -> None:
        self.target = target
        self.hidden = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}{_UNFINISHED}")
        self._file = file

    def write(self, stopped: threading.Event) -> None:
        """Write the hidden file durably; raise `SourceChanged` if what was written is not what was checked."""
        copied = _copy_durably(self._file.source, self.hidden, stopped)
        if self._file.sha256 not in (None, copied):
            raise SourceChanged(self._file.relative)


def _copy_durably(source: Path | bytes, target: Path, stopped: threading.Event) -> str:
    """Copy a file or content, and return the SHA-256 of what was written."""
    digest = hashlib.sha256()
    with open_source(source) as reader, target.open("xb") as writer:
        size = reader.seek(0, os.SEEK_END)
        reader.seek(0)
        while chunk := reader.read(_CHUNK_BYTES):
            if stopped.is_set():
                raise _CopyStopped
            writer.write(chunk)
            digest.update(chunk)
        writer.flush()
        os.fsync(writer.fileno())
        if os.fstat(writer.fileno()).st_size != size:
            raise OSError(errno.EIO, "the copy is not as long as the original")
    return digest.hexdigest()


def _check_folder(root: Path) -> None:
    """Publish, read and delete a small file in a folder of its own, as in that of a project."""
    content = uuid.uuid4().hex.encode()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".check.", suffix=_UNFINISHED, dir=root) as folder:
        hidden, target = Path(folder) / "hidden", Path(folder) / "check"
        with hidden.open("xb") as writer:
            writer.write(content)
            writer.flush()
            os.fsync(writer.fileno())
        os.replace(hidden, target)
        _sync_folders(target.parent, root)
        if _read_size(target) != len(content) or target.read_bytes() != content:
            raise OSError(errno.EIO, "what was read is not what was written")
        target.unlink()


def _sync_folders(folder: Path, root: Path) -> None:
    """Make names durable: that of the file in its folder, and those of folders that may be new."""
    while True:
        _sync_names(folder)
        if folder in (root, folder.parent):
            return
        folder = folder.parent


def _sync_names(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_if_present(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _has_marker(folder: Path) -> bool:
    try:
        return (folder / STORE_MARKER).is_file()
    except OSError:
        # A folder that may be passed through and not be looked into.
        return False


def _create_exclusively(path: Path, content: bytes) -> None:
    """Create a whole and durable file, or leave the existing one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{_UNFINISHED}")
    try:
        with hidden.open("xb") as writer:
            writer.write(content)
            writer.flush()
            os.fsync(writer.fileno())
        try:
            # A link, not a rename: it fails if the name is taken.
            os.link(hidden, path)
        except FileExistsError:
            return
        except OSError:
            # A mount without hard links: the last writer wins, and every writer reads back its marker.
            os.replace(hidden, path)
        _sync_folders(path.parent, path.parent)
    finally:
        hidden.unlink(missing_ok=True)


def _list_folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _list_files(root: Path, folder: str) -> Iterator[StoredFile]:
    for parent, folders, names in os.walk(root / folder, onerror=_raise_unless_missing):
        # Without a folder only the files directly at the root are listed.
        folders[:] = sorted(folders) if folder else []
        for name in sorted(names):
            path = Path(parent) / name
            is_internal = name.startswith(".") and (name == STORE_MARKER or name.endswith(_UNFINISHED))
            if not is_internal and (size := _read_size(path)) is not None:
                yield StoredFile(path.as_uri(), size)


def _read_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _raise_unless_missing(error: OSError) -> None:
    # `os.walk` skips errors by default: an unreadable folder would look empty.
    if not isinstance(error, FileNotFoundError):
        raise error


def _remove_stale(root: Path) -> int:
    removed = 0
    oldest = time.time() - STALE_SECONDS
    for path in root.rglob(f".*{_UNFINISHED}"):
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed


@lru_cache(_RECENT_PATHS)
def _read_path(url: str) -> str:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise InvalidInput(f"store {url}: a local folder is written file:///absolute/folder")
    return os.path.normpath(path)


def _build_error(path: Path, error: OSError) -> StoreError:
    reasons = {
        errno.ENOSPC: "the disk is full: free some space or use another store",
        errno.EDQUOT: "the disk quota is used up: free some space or use another store",
        errno.EACCES: "no permission: let this user write there or use another store",
        errno.EPERM: "no permission: let this user write there or use another store",
        errno.EROFS: "the disk is read-only: use another store",
        errno.ENOTDIR: "a part of the path is a file: use another folder",
        errno.EEXIST: "a file stands where a folder is needed: use another folder",
        errno.ENAMETOOLONG: "the path is too long: use a shorter store path or shorter names",
    }
    reason = reasons.get(error.errno or 0, f"{error.strerror or error}: look at the path, or use another store")
    return StoreError(f"store at {error.filename or path}: {reason}")
