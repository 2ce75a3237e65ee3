"""Local file that a video is downloaded into chunk by chunk, and that a restarted process continues.

`NAME.part` grows; `NAME.part.json` records the version of the remote file that it is a part of; after the last byte the
part is renamed to `NAME`. The digest is updated with every chunk written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

from filelock import lock_descriptor

from prefect_video.downloads.private_files import open_private, prepare_private_folder
from prefect_video.errors import IncompleteDownload, StoreError

_REHASH_BYTES: Final = 2**20


@dataclass(frozen=True)
class Version:
    """Version of a remote file, as far as its server reports one.

    Attributes:
        etag: Strong entity tag.
        last_modified: The `Last-Modified` header, verbatim.
        total: Size in bytes.
    """

    etag: str | None = None
    last_modified: str | None = None
    total: int | None = None

    @property
    def is_known(self) -> bool:
        """True if a later response can be recognised as the same version."""
        return self.etag is not None or self.total is not None

    def conflicts_with(self, other: Version) -> bool:
        """Return True if a property that both versions report differs."""
        pairs = (
            (self.etag, other.etag),
            (self.last_modified, other.last_modified),
            (self.total, other.total),
        )
        return any(left is not None and right is not None and left != right for left, right in pairs)


class PartialFile:
    """File of one download. Blocking: call it through `run_in_thread`, one call after another.

    No call, `close` included, may begin before the previous one has returned.

    Attributes:
        path: Path of the finished file.
        size: Bytes written so far.
        version: Version of the remote file that these bytes belong to.

    Raises:
        StoreError: The disk is full, read-only or not writable for this user; the message names path and reason.
        IncompleteDownload: Another download is writing the same file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.version = Version()
        self._part = path.with_name(path.name + ".part")
        self._version_path = path.with_name(path.name + ".part.json")
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes written so far."""
        return self._digest.hexdigest()

    def open(self) -> None:
        """Lock the file for this download, and continue the part that an earlier one left."""
        try:
            prepare_private_folder(self.path.parent)
            self._file = open_private(self._part, "a+b")
            self._lock()
            self.version = self._read_version()
            self._rehash()
        except OSError as error:
            self.close()
            raise self._build_error(error) from error
        except IncompleteDownload:
            self.close()
            raise

    def load_finished(self) -> bool:
        """Read the file that an earlier process finished; return False if there is none.

        Afterwards `size` and `sha256` are those of the whole file.
        """
        try:
            with open_private(self.path, "rb") as file:
                self._hash_all(file)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._build_error(error) from error
        return True

    def check_free_space(self, needed_bytes: int) -> None:
        """Raise `StoreError` if the rest of the download cannot fit on the disk."""
        free = shutil.disk_usage(self.path.parent).free
        if needed_bytes > free:
            raise StoreError(
                f"cannot spool to {self.path.parent}: {needed_bytes:,} bytes are needed, {free:,} are free;"
                " free some space or use another spool folder"
            )

    def append(self, chunks: Sequence[bytes]) -> None:
        """Write chunks in order and update the digest."""
        file = self._opened
        try:
            for chunk in chunks:
                _write_all(file, chunk)
                self._digest.update(chunk)
                self.size += len(chunk)
        except OSError as error:
            raise self._build_error(error) from error

    def truncate(self, version: Version) -> None:
        """Discard all bytes; the next chunk is the beginning of the given version.

        Raises:
            StoreError: A file of its size has no room; a disk that fills up halfway fails the other downloads too.
        """
        file = self._opened
        if version.total is not None:
            self.check_free_space(version.total - self.size)
        try:
            # Before the version is written: a crash in between leaves an empty part, not old bytes under a new version.
            file.truncate(0)
            with open_private(self._version_path, "wb") as version_file:
                _write_all(version_file, json.dumps(asdict(version)).encode())
        except OSError as error:
            raise self._build_error(error) from error
        self._digest, self.size, self.version = hashlib.sha256(), 0, version

    def commit(self) -> None:
        """Make the part durable and rename it to its final name."""
        file = self._opened
        try:
            # Before the rename: after a power cut the final name must not hold missing blocks.
            os.fsync(file.fileno())
            os.replace(self._part, self.path)
            self._version_path.unlink(missing_ok=True)
        except OSError as error:
            raise self._build_error(error) from error

    def close(self) -> None:
        """Close the file and keep it for a later continuation. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _opened(self) -> IO[bytes]:
        if self._file is None:
            raise RuntimeError(f"the partial download {self._part} is not open")
        return self._file

    def _lock(self) -> None:
        # By descriptor: `FileLock` would truncate the part that is to be continued.
        if not lock_descriptor(self._opened.fileno(), blocking=False):
            raise IncompleteDownload(f"another download is writing {self._part}; wait for it to end")

    def _read_version(self) -> Version:
        try:
            with open_private(self._version_path, "rb") as version_file:
                return Version(**json.loads(version_file.read()))
        except (FileNotFoundError, ValueError, TypeError):
            return Version()

    def _rehash(self) -> None:
        file = self._opened
        if not self.version.is_known:
            # Without a version nothing proves that the next response continues these bytes.
            file.truncate(0)
        file.seek(0)
        self._hash_all(file)

    def _hash_all(self, file: IO[bytes]) -> None:
        self._digest, self.size = hashlib.sha256(), 0
        while chunk := file.read(_REHASH_BYTES):
            self._digest.update(chunk)
            self.size += len(chunk)

    def _build_error(self, error: OSError) -> StoreError:
        reasons = {
            errno.ENOSPC: "the disk is full; free some space or use another spool folder",
            errno.EDQUOT: "the disk quota is used up; free some space or use another spool folder",
            errno.EACCES: "no permission; let this user write there or use another spool folder",
            errno.EPERM: error.strerror,
            errno.ELOOP: "it is a link, which another user may have put there; remove it",
            errno.EROFS: "the disk is read-only; use another spool folder",
        }
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        return StoreError(f"cannot spool to {self.path}: {reason}")


def _write_all(file: IO[bytes], chunk: bytes) -> None:
    # An unbuffered file may write less than it is given.
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]
