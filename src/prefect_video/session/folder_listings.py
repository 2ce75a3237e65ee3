"""Listings of a store's folders: what a folder was seen not to hold, so that each claim need not list it again."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Final

_RECENT_SECONDS: Final = 15.0
"""What another ledger publishes is found that much later at most; what this one does is in its rows."""


class FolderListings:
    """The fingerprints of which each folder of a store held something when it was listed last.

    A folder grows with its project, and a service claims its videos one by one: listed for each of them, it would be
    read more often than it has files. What a listing has shown is not relied on: then it is read again.
    """

    def __init__(self) -> None:
        self._listed: dict[str, tuple[float, frozenset[str]]] = {}

    def record(self, folder: str, digests: Iterable[str]) -> None:
        """Record what a folder holds.

        Args:
            folder: Name of the folder.
            digests: Digits of the fingerprints in the names of its files.
        """
        self._listed[folder] = (time.monotonic(), frozenset(digests))

    def has_shown_none(self, folder: str, digests: Collection[str]) -> bool:
        """Return whether a recent listing of a folder has shown nothing of these fingerprints."""
        listed_at, held = self._listed.get(folder, (None, frozenset()))
        return listed_at is not None and time.monotonic() - listed_at < _RECENT_SECONDS and held.isdisjoint(digests)
