"""Locks on files that the system drops when their holder dies, however it dies.

A forked child does not inherit them: `filelock` closes its copies, so that no child outlives its parent as the holder.
"""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor

__all__ = ["FileLock", "acquire_if_free", "is_held", "new_lock", "try_lock"]


def new_lock(path: Path) -> FileLock:
    """Return the lock of a file, not held yet; the file is created when the lock is first tried."""
    # Asyncio's worker threads take the lock and others release it; a lock that survives its holder is of no use here.
    return FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False)


def acquire_if_free(lock: FileLock) -> bool:
    """Take a lock without waiting for it; it is held until it is released or the process is gone.

    Returns:
        Whether it is held now; False while another process holds it.

    Raises:
        OSError: The file cannot be opened, or its file system has no such locks.
    """
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def try_lock(path: Path) -> FileLock | None:
    """Lock a file if it is free.

    Returns:
        The lock, or None while another process holds it.

    Raises:
        OSError: The file cannot be opened, or its file system has no such locks.
    """
    lock = new_lock(path)
    return lock if acquire_if_free(lock) else None


def is_held(path: Path) -> bool | None:
    """Tell whether a process holds the lock on a file; None when there is no such file."""
    try:
        # Without `FileLock`, which would create the file and renew its time, by which old ones are removed.
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        return not lock_descriptor(descriptor, blocking=False)
    finally:
        os.close(descriptor)
