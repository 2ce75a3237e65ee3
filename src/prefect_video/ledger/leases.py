"""Owners of rows, and the proof that their processes are alive.

On one machine a lock file tells for certain: the system drops the lock when its holder dies. Between machines a
heartbeat in the database tells, by the database's clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout, lock_descriptor
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video._shield import run_in_thread
from prefect_video.errors import LedgerError
from prefect_video.ledger.database import Database
from prefect_video.ledger.tables import owners

logger = logging.getLogger(__name__)

__all__ = ["FileLock", "acquire_if_free", "is_held", "new_lock", "try_lock"]


def new_lock(path: Path) -> FileLock:
    """Return the lock of a file, not held yet; the file is created when the lock is first tried."""
    # Asyncio's worker threads take the lock and others release it; a lock that survives its holder is of no use here.
    return FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False)


def acquire_if_free(lock: FileLock) -> bool:
    """Take a lock without waiting for it; it is held until it is released or the process ends.

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


_FORGET_AFTER = timedelta(days=1)
_SWEEP_SECONDS: Final = 3600.0
_swept_at: Final[dict[Path, float]] = {}
"""When this process looked for old lock files in a folder, by the monotonic clock."""
# A beat may be lost, or come late, before the owner counts as dead elsewhere.
_BEATS_PER_LEASE = 3


@dataclass
class Lease:
    """This ledger instance as an owner of rows.

    Attributes:
        lease_seconds: How old a heartbeat from another machine may be before its owner counts as dead.
        id: `host:pid:uuid`.
        upkeep: What else is to be done for the rows of this owner after each heartbeat.
    """

    database: Database
    lease_seconds: float
    id: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}")
    upkeep: Callable[[], Awaitable[None]] | None = None
    _lock: FileLock | None = None
    _beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Register this owner and keeps it alive until `stop`.

        Raises:
            LedgerError: The ledger cannot be written.
        """
        try:
            await run_in_thread(self._take_lock)
            await self.heartbeat()
        except BaseException:
            self._release_lock()
            raise
        self._beating = asyncio.create_task(self._keep_beating(), name="ledger-heartbeat")

    async def stop(self) -> None:
        """Sign off: from now on this owner's rows are free for others."""
        # First of all: whatever fails below, no process on this machine takes this owner for alive any more.
        self._release_lock()
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        async with self.database.writing() as connection:
            await connection.execute(delete(owners).where(owners.c.id == self.id))
        if self._lock is not None:
            await asyncio.to_thread(_lock_path(self.id).unlink, missing_ok=True)

    async def heartbeat(self) -> None:
        """Write one heartbeat, whatever the number of rows that are owned."""
        async with self.database.writing_immediately() as connection:
            now = await self.database.now(connection)
            beaten = await connection.execute(update(owners).where(owners.c.id == self.id).values(heartbeat_at=now))
            # New, or removed by another process while this one was suspended for a day.
            if beaten.rowcount == 0:
                host, pid, _ = self.id.rsplit(":", 2)
                await connection.execute(insert(owners).values(id=self.id, host=host, pid=int(pid), heartbeat_at=now))
                await connection.execute(delete(owners).where(owners.c.heartbeat_at < now - _FORGET_AFTER))

    async def alive(self, connection: AsyncConnection, ids: Collection[str]) -> set[str]:
        """Return the owners that are alive."""
        held = await _look_at_locks(ids)
        alive = {owner for owner, is_alive in held.items() if is_alive}
        # Of another machine, or without a lock file: only its heartbeat tells.
        if unsure := [owner for owner, is_alive in held.items() if is_alive is None]:
            oldest = await self.database.now(connection) - timedelta(seconds=self.lease_seconds)
            beating = await connection.execute(
                select(owners.c.id).where(owners.c.id.in_(unsure), owners.c.heartbeat_at >= oldest)
            )
            alive |= set(beating.scalars())
        return alive

    def _take_lock(self) -> None:
        # Kept by the thread that takes it: the task that awaits it may be cancelled.
        self._lock = _open_lock(self.id)

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    async def _keep_beating(self) -> None:
        interval = self.lease_seconds / _BEATS_PER_LEASE
        while True:
            await asyncio.sleep(interval)
            try:
                await self.heartbeat()
            except LedgerError as error:
                logger.warning("no heartbeat was written, other machines may take this one for dead: %s", error)
                continue
            try:
                # It must not delay the next heartbeat.
                async with asyncio.timeout(interval):
                    await self._do_upkeep()
            except (LedgerError, TimeoutError) as error:
                logger.warning("jobs that were given up are released after a later heartbeat: %r", error)

    async def _do_upkeep(self) -> None:
        if self.upkeep is not None:
            await self.upkeep()


async def _look_at_locks(ids: Collection[str]) -> dict[str, bool | None]:
    """Look at the lock files of owners; not on the event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # A transaction that runs in the thread of its file.
        return {owner: _lock_held(owner) for owner in ids}
    return await asyncio.to_thread(lambda: {owner: _lock_held(owner) for owner in ids})


def runtime_folder() -> Path:
    """Return the folder of the lock files of this user's processes."""
    user = os.geteuid() if hasattr(os, "geteuid") else os.getlogin()
    return Path(tempfile.gettempdir()) / f"prefect-video-{user}"


def _open_lock(owner_id: str) -> FileLock | None:
    """Hold this owner's lock file; None where that is not possible and heartbeats must do."""
    folder = runtime_folder()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
            raise PermissionError(f"{folder} belongs to another user")
        _remove_old_locks(folder)
        return try_lock(_lock_path(owner_id))
    except OSError as error:
        logger.warning("no lock file, only heartbeats will tell that this process lives: %s", error)
        return None


def _lock_held(owner_id: str) -> bool | None:
    """Tell whether an owner of this machine holds its lock; None when its file is not here.

    What the dead left stays for a day: removed at once, the next to ask would see a heartbeat that still looks fresh.
    """
    if owner_id.partition(":")[0] != socket.gethostname():
        return None
    return is_held(_lock_path(owner_id))


def _remove_old_locks(folder: Path) -> None:
    """Remove the lock files that the dead left a day ago; once an hour, as a busy machine has thousands of files."""
    now = time.monotonic()
    if now - _swept_at.get(folder, -_SWEEP_SECONDS) < _SWEEP_SECONDS:
        return
    _swept_at[folder] = now
    oldest = time.time() - _FORGET_AFTER.total_seconds()
    with os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                if file.name.endswith(".lock") and file.stat().st_mtime < oldest and is_held(Path(file)) is False:
                    os.unlink(file)


def _lock_path(owner_id: str) -> Path:
    return runtime_folder() / f"{owner_id.rpartition(':')[2]}.lock"
