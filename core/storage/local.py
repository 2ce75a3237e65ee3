"""A store in a local folder (or anything mounted as one)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from prefect_video.errors import InvalidInput, StoreError
from prefect_video.storage.base import STALE_SECONDS, checked_path, find_elsewhere, store_of
from prefect_video.unbroken import to_its_end

_CHUNK_BYTES: Final = 2**20
_UNFINISHED: Final = ".unfinished"

_T = TypeVar("_T")


class LocalStore:
    """Files below one folder. A file is written under a hidden name and renamed once it is whole and durable."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = root.as_uri()

    @classmethod
    def open(cls, url: str) -> LocalStore:
        """Opens a folder by path or `file://` URL; it is made on first use.

        Raises:
            InvalidInput: The URL names another host or nothing.
        """
        path = _path_of(url) if url.lower().startswith("file://") else Path(url).expanduser()
        if not url.strip() or "\0" in url:
            raise InvalidInput("store: the path is empty or unreadable; use a path or file:///folder")
        return cls(Path(os.path.abspath(path)))

    async def publish(self, spool: Path, relative: PurePosixPath, *, content_type: str) -> str:
        """See `Store.publish`; a folder keeps no content type."""
        uri = self.uri(relative)
        target = self._place(uri)
        hidden = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}{_UNFINISHED}")
        stopped = threading.Event()
        try:
            await _whole(self._guarded(target, lambda: _copy_durably(spool, hidden, stopped)), stopped)
            self._guarded(target, lambda: os.replace(hidden, target))()
        except BaseException:
            # Where it cannot even be removed, what went wrong before says more; `sweep` comes by later.
            with contextlib.suppress(OSError):
                hidden.unlink()
            raise
        await asyncio.to_thread(self._guarded(target, lambda: _sync_folders(target.parent, self.root)))
        return uri

    async def fetch(self, uri: str, destination: Path) -> None:
        """See `Store.fetch`."""
        source = self._place(uri)
        await asyncio.to_thread(self._guarded(source, lambda: shutil.copyfile(source, destination)))

    async def read_bytes(self, uri: str) -> bytes:
        """See `Store.read_bytes`."""
        path = self._place(uri)
        try:
            return await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unusable(path, error) from error

    async def size(self, uri: str) -> int | None:
        """See `Store.size`."""
        path = self._place(uri)
        return await asyncio.to_thread(self._guarded(path, lambda: _size(path)))

    async def exists_many(self, uris: Collection[str]) -> set[str]:
        """See `Store.exists_many`; one thread looks up all of this store's."""
        mine = {uri: self._place(uri) for uri in uris if self.owns(uri)}
        found = await asyncio.to_thread(self._guarded(self.root, lambda: self._existing(mine)))
        return found | await find_elsewhere(set(uris) - mine.keys())

    def _existing(self, places: Mapping[str, Path]) -> set[str]:
        if places and not self.root.is_dir():
            # An unmounted disk looks like this: to call its videos gone would have them all bought again.
            raise StoreError(
                f"the store {self.root} is not there, and {len(places)} stored videos should be in it: mount it; or, if"
                " it was deleted on purpose, create the empty folder and they are made again"
            )
        return {uri for uri, path in places.items() if _size(path) is not None}

    async def list_files(self, folder: PurePosixPath | None = None) -> list[str]:
        """See `Store.list_files`."""
        top = self.root if folder is None else self._place(self.uri(folder))
        return await asyncio.to_thread(self._guarded(top, lambda: _files_below(top)))

    async def copy(self, uri: str, relative: PurePosixPath) -> str:
        """See `Store.copy`."""
        if uri == self.uri(relative):
            return uri
        if self.owns(uri):
            return await self.publish(self._place(uri), relative, content_type="")
        spool = self._place(self.uri(relative))
        spool = spool.with_name(f".{spool.name}.{uuid.uuid4().hex[:12]}{_UNFINISHED}")
        other = store_of(uri)
        try:
            await asyncio.to_thread(self._guarded(spool, lambda: spool.parent.mkdir(parents=True, exist_ok=True)))
            await other.fetch(uri, spool)
            return await self.publish(spool, relative, content_type="")
        finally:
            await other.aclose()
            await asyncio.to_thread(spool.unlink, missing_ok=True)

    async def delete(self, uri: str) -> None:
        """See `Store.delete`."""
        path = self._place(uri)
        await asyncio.to_thread(self._guarded(path, lambda: path.unlink(missing_ok=True)))

    def uri(self, relative: PurePosixPath) -> str:
        """See `Store.uri`."""
        return self.root.joinpath(*checked_path(relative).parts).as_uri()

    def owns(self, uri: str) -> bool:
        """See `Store.owns`."""
        if not uri.startswith("file://"):
            return False
        try:
            path = _path_of(uri)
        except InvalidInput:
            return False
        return path != self.root and path.is_relative_to(self.root)

    async def check(self) -> None:
        """See `Store.check`."""
        probe = self.root / f".check.{uuid.uuid4().hex[:12]}{_UNFINISHED}"

        def write_and_remove() -> None:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"ok")
            probe.unlink()

        await asyncio.to_thread(self._guarded(self.root, write_and_remove))

    async def sweep(self) -> int:
        """See `Store.sweep`."""
        return await asyncio.to_thread(self._guarded(self.root, lambda: _remove_stale(self.root)))

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _place(self, uri: str) -> Path:
        if not self.owns(uri):
            raise InvalidInput(f"{uri}: lies outside the store {self.url}")
        return _path_of(uri)

    def _guarded(self, path: Path, action: Callable[[], _T]) -> Callable[[], _T]:
        def run() -> _T:
            try:
                return action()
            except OSError as error:
                raise _unusable(path, error) from error

        return run


class _Stopped(Exception):
    """The copy was called off."""


async def _whole(action: Callable[[], object], stopped: threading.Event) -> None:
    """Runs an action in a thread; when cancelled, stops the thread and waits for its end before going on."""
    running = asyncio.ensure_future(asyncio.to_thread(action))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        stopped.set()
        await to_its_end(asyncio.gather(running, return_exceptions=True))
        raise


def _copy_durably(source: Path, target: Path, stopped: threading.Event) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("xb") as writer:
        wanted = os.fstat(reader.fileno()).st_size
        while chunk := reader.read(_CHUNK_BYTES):
            if stopped.is_set():
                raise _Stopped
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
        if os.fstat(writer.fileno()).st_size != wanted:
            raise OSError(errno.EIO, "the copy is not as long as the original")


def _sync_folders(folder: Path, root: Path) -> None:
    """Makes names durable: the file's in its folder, and those of folders that may be new."""
    while True:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if folder in (root, folder.parent):
            return
        folder = folder.parent


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _files_below(top: Path) -> list[str]:
    found: list[str] = []
    for folder, folders, names in os.walk(top, onerror=_raise_unless_missing):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name).as_uri() for name in names if not name.startswith(".")]
    return sorted(found)


def _raise_unless_missing(error: OSError) -> None:
    # A folder that cannot be read must not look like one that holds nothing.
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


def _path_of(url: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise InvalidInput(f"store {url}: a local folder is written file:///absolute/folder")
    return Path(os.path.normpath(path))


def _unusable(path: Path, error: OSError) -> StoreError:
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
