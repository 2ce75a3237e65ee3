"""The local file that a video is downloaded into, piece by piece, and that outlives a crash.

`NAME.part` grows; `NAME.part.json` remembers which version of the remote file it is a piece of; on the last
byte the part becomes `NAME`. The digest is kept along with every piece written.
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

from prefect_video.errors import IncompleteDownload, StoreError

_REHASH_BYTES: Final = 2**20


@dataclass(frozen=True)
class Version:
    """Which version of a remote file a piece belongs to, as far as its server tells.

    Attributes:
        etag: Its strong entity tag.
        last_modified: The server's date of it, verbatim.
        total: Its size in bytes.
    """

    etag: str | None = None
    last_modified: str | None = None
    total: int | None = None

    @property
    def known(self) -> bool:
        """Whether a later answer can be told to be of the same version."""
        return self.etag is not None or self.total is not None

    def conflicts_with(self, other: Version) -> bool:
        """Whether both say the same thing differently."""
        pairs = (
            (self.etag, other.etag),
            (self.last_modified, other.last_modified),
            (self.total, other.total),
        )
        return any(mine is not None and theirs is not None and mine != theirs for mine, theirs in pairs)


class PartialFile:
    """One download's file. Blocking: use it through `run_in_thread`, one call after another.

    The file belongs to the call that uses it: nothing else, closing included, may come before that has ended.

    Raises:
        StoreError: The disk is full, read-only or not ours to write; the message names path and reason.
        IncompleteDownload: Another download is writing the same file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.version = Version()
        self._part = path.with_name(path.name + ".part")
        self._notes = path.with_name(path.name + ".part.json")
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None

    @property
    def sha256(self) -> str:
        """Hex digest of what is written so far."""
        return self._digest.hexdigest()

    def open(self) -> None:
        """Takes the file for this download and continues what an earlier one left."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("a+b", buffering=0)
            self._claim()
            self.version = self._read_notes()
            self._rehash()
        except OSError as error:
            self.close()
            raise self._unusable(error) from error
        except IncompleteDownload:
            self.close()
            raise

    def finished(self) -> bool:
        """Whether an earlier process ended this download; if so, `size` and `sha256` are of the whole file."""
        try:
            with self.path.open("rb") as file:
                self._hash_all(file)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unusable(error) from error
        return True

    def check_free_space(self, wanted: int) -> None:
        """Refuses a download that cannot fit on the disk, before its first byte."""
        free = shutil.disk_usage(self.path.parent).free
        if wanted > free:
            raise StoreError(
                f"cannot spool to {self.path.parent}: {wanted:,} bytes are needed, {free:,} are free;"
                " free some space or use another spool folder"
            )

    def append(self, pieces: Sequence[bytes]) -> None:
        """Writes pieces in order and takes them into the digest."""
        file = self._opened
        try:
            for piece in pieces:
                _write_all(file, piece)
                self._digest.update(piece)
                self.size += len(piece)
        except OSError as error:
            raise self._unusable(error) from error

    def truncate(self, version: Version) -> None:
        """Forgets all bytes: what follows is the beginning of the given version."""
        file = self._opened
        try:
            file.truncate(0)
            self._notes.write_text(json.dumps(asdict(version)))
        except OSError as error:
            raise self._unusable(error) from error
        self._digest, self.size, self.version = hashlib.sha256(), 0, version

    def commit(self) -> None:
        """Makes the part durable and gives it its name."""
        file = self._opened
        try:
            os.fsync(file.fileno())
            os.replace(self._part, self.path)
            self._notes.unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Closes the file and keeps it for a later continuation. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _opened(self) -> IO[bytes]:
        if self._file is None:
            raise RuntimeError(f"the partial download {self._part} is not open")
        return self._file

    def _claim(self) -> None:
        # By descriptor: `FileLock` would truncate the very file that is to be continued.
        if not lock_descriptor(self._opened.fileno(), blocking=False):
            raise IncompleteDownload(f"another download is writing {self._part}; wait for it to end")

    def _read_notes(self) -> Version:
        try:
            return Version(**json.loads(self._notes.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return Version()

    def _rehash(self) -> None:
        file = self._opened
        if not self.version.known:
            file.truncate(0)
        file.seek(0)
        self._hash_all(file)

    def _hash_all(self, file: IO[bytes]) -> None:
        self._digest, self.size = hashlib.sha256(), 0
        while piece := file.read(_REHASH_BYTES):
            self._digest.update(piece)
            self.size += len(piece)

    def _unusable(self, error: OSError) -> StoreError:
        reasons = {
            errno.ENOSPC: "the disk is full; free some space or use another spool folder",
            errno.EDQUOT: "the disk quota is used up; free some space or use another spool folder",
            errno.EACCES: "no permission; let this user write there or use another spool folder",
            errno.EPERM: "no permission; let this user write there or use another spool folder",
            errno.EROFS: "the disk is read-only; use another spool folder",
        }
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        return StoreError(f"cannot spool to {self.path}: {reason}")


def _write_all(file: IO[bytes], piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) :]
