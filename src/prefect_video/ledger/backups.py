"""Backups of a SQLite ledger: a whole, checked file, made while runs write."""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
from pathlib import Path

from prefect_video._shield import run_in_thread
from prefect_video.errors import InvalidInput, LedgerError, LedgerUnavailable
from prefect_video.ledger.database import translate_error
from prefect_video.ledger.urls import DatabaseUrl


async def back_up(location: DatabaseUrl, target: Path) -> int:
    """Copy a SQLite ledger, as it is at one moment, into a new file that gets its name when it is whole and checked.

    Args:
        location: The ledger's address.
        target: The file.

    Returns:
        Its size in bytes.

    Raises:
        InvalidInput: The ledger is on PostgreSQL, whose own tool the message names, or the file exists.
        LedgerError: The ledger cannot be read, the file not be written, or the copy is damaged.
    """
    if location.path is None:
        command = shlex.join(["pg_dump", "--format=custom", f"--file={target}", str(location.command_option)])
        raise InvalidInput(f"ledger backup: this ledger is on PostgreSQL, which has a tool for it; run: {command}")
    return await run_in_thread(_copy, location, target)


def _copy(location: DatabaseUrl, target: Path) -> int:
    if target.exists():
        raise InvalidInput(f"ledger backup: {target} exists already: give the name of a new file")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with (
            contextlib.closing(sqlite3.connect(f"{Path(str(location.path)).as_uri()}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(partial)) as copy,
        ):
            # All pages in one step: it reads one snapshot, which holds up no writer of a file in WAL mode.
            source.backup(copy)
            # One file that holds everything, without a journal beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
            (finding,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
        if finding != "ok":
            raise LedgerError(f"the backup of {location.name} is damaged, so the ledger may be: {finding}")
        _sync(partial)
        size = partial.stat().st_size
        # Unlike a rename, it replaces nothing that has come there meanwhile.
        os.link(partial, target)
        _sync(target.parent)
        return size
    except sqlite3.Error as error:
        raise translate_error(error, location) from error
    except OSError as error:
        raise LedgerUnavailable(
            f"the backup {target} cannot be written ({error.strerror or error}): give a new file in another folder"
        ) from error
    finally:
        for name in (partial, partial.with_name(f"{partial.name}-journal")):
            name.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
