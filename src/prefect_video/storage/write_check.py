"""Write check: what the work does to a store, done with a small file before a session claims anything."""

from __future__ import annotations

import asyncio

from prefect_video.storage.base import Store


class WriteCheck:
    """Check of one session's store, made once, before the first claim of a video that may have to be published."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._checked: Store | None = None

    def is_done(self, store: Store) -> bool:
        """Return True if the store has passed the check."""
        return self._checked is store

    async def require_writable(self, store: Store) -> None:
        """Make the check unless the store has passed it.

        Raises:
            StoreError: A video could not be published there; nothing was sent.
        """
        async with self._lock:
            if not self.is_done(store):
                await store.check()
                self._checked = store
