"""The identity of a SQLite ledger's file.

A path names a place. A file that was deleted or replaced there goes on existing for the processes that hold it open:
what they write is in a ledger that no other process reads, and each side would buy what the other has bought.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from prefect_video.errors import LedgerFileUnsafe
from prefect_video.ledger.hold_reasons import recover_command
from prefect_video.ledger.urls import DatabaseUrl


class FileIdentity:
    """The file that was opened under a path: device and inode, of which only one name may exist."""

    def __init__(self, location: DatabaseUrl, accounts: Collection[str] = ()) -> None:
        """Create the identity of a file that is yet to be opened.

        Args:
            location: The file.
            accounts: Names of the accounts in use, for the command that recovers it; they may be added later.
        """
        assert location.path is not None
        self._path = location.path
        self._location = location
        self._accounts = accounts
        self._opened: tuple[int, int] | None = None

    @property
    def is_known(self) -> bool:
        """Tell whether the file has been opened before, so that it must not be created anew."""
        return self._opened is not None

    @property
    def _next_step(self) -> str:
        recover = recover_command(self._location.command_option, accounts=self._accounts)
        return (
            "Nothing is sent. Put the file that was opened back in its place; or, if it is lost, restore a backup and"
            f" run: {recover}"
        )

    def require(self) -> None:
        """Compare the file at the path with the one that was opened; the first call records it.

        Raises:
            LedgerFileUnsafe: It was deleted or replaced, or has several names.
        """
        try:
            found = os.stat(self._path)
        except FileNotFoundError as error:
            raise LedgerFileUnsafe(
                f"the ledger {self._path} was deleted or moved away while it was in use. {self._next_step}"
            ) from error
        if found.st_nlink > 1:
            raise LedgerFileUnsafe(
                f"the ledger {self._path} has {found.st_nlink} names (hard links): SQLite keeps a journal for each,"
                " and two of them damage the file. Nothing is sent. Remove the other names (find them with:"
                f" find FOLDER -samefile {self._path}); for a copy use: sqlite3 {self._path} '.backup COPY'"
            )
        identity = (found.st_dev, found.st_ino)
        if self._opened is None:
            self._opened = identity
        elif self._opened != identity:
            raise LedgerFileUnsafe(
                f"the ledger {self._path} was replaced by another file while it was in use. {self._next_step}"
            )
