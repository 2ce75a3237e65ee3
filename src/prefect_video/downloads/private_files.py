"""Files that other users of the machine can neither read, replace nor plant: the folder is checked, and each file.

The default spool is in the shared temporary folder, where anyone may have made a folder or a link of its name first.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO, Final

from prefect_video.errors import StoreError

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def prepare_private_folder(folder: Path) -> None:
    """Create a folder for this user alone, or make sure that an existing one is.

    Raises:
        StoreError: It cannot be created, is a link, belongs to another user, or others may write to it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise StoreError(f"cannot use the spool folder {folder}: {error.strerror}") from error
    if reason := _find_flaw(found):
        raise StoreError(
            f"cannot use the spool folder {folder}: {reason}, so that another user could exchange videos in it;"
            f" run `chmod 700` on a folder of your own, or set PREFECT_VIDEO_SPOOL to one that does not exist yet"
        )


def open_private(path: Path, mode: str) -> IO[bytes]:
    """Open a file of a private folder, unbuffered; one that is to be written is created for this user alone.

    Args:
        path: The file.
        mode: `rb`, or `a+b` and `wb`, which create it.

    Raises:
        OSError: It cannot be opened, is a link or no plain file, or belongs to another user.
    """
    return open(path, mode, buffering=0, opener=_open_checked)


def _open_checked(name: str, flags: int) -> int:
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    if flags & os.O_CREAT:
        try:
            return os.open(name, (flags | os.O_EXCL) & ~os.O_TRUNC, 0o600)
        except FileExistsError:
            flags &= ~os.O_CREAT
    # Truncated only after the check: it may be another one's file.
    handle = os.open(name, flags & ~os.O_TRUNC)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise OSError(errno.EPERM, "it is no plain file of this user; remove it", name)
        if flags & os.O_TRUNC:
            os.ftruncate(handle, 0)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _find_flaw(found: os.stat_result) -> str | None:
    """Return why a folder is not private; None where it is."""
    if stat.S_ISLNK(found.st_mode):
        return "it is a link"
    if found.st_uid != os.geteuid():
        return "it belongs to another user"
    return "others may write to it" if found.st_mode & _WRITABLE_BY_OTHERS else None
