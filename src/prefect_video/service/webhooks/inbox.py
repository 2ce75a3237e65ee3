"""The inbox of webhooks: deliveries are stored before they are acknowledged, several in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from prefect_video.ledger import Ledger, ReceivedEvent

_GATHER_SECONDS: Final = 0.005
"""Pause between two transactions: each costs as much as ten events, and a burst would spend all time on commits."""

_IDLE_WAIT_SECONDS: Final = 0.02
"""Longest wait of other work for an idle inbox: a lasting burst must not stop it."""


class Inbox:
    """A batching writer of events: what arrives during a transaction, and shortly after it, shares the next one."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._next_write_at = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._waiting: list[tuple[ReceivedEvent, asyncio.Future[bool]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def put(self, event: ReceivedEvent) -> bool:
        """Store an event.

        Returns:
            True if the event is new, False for a duplicate.

        Raises:
            LedgerError: The event could not be stored, and must not be acknowledged.
        """
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, written))
        self._idle.clear()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="webhook inbox")
        return await written

    async def wait_until_idle(self) -> None:
        """Wait until no delivery waits for its answer, for at most `_IDLE_WAIT_SECONDS`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_WAIT_SECONDS):
                await self._idle.wait()

    async def aclose(self) -> None:
        """Wait for the transaction in progress."""
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        """Write batches until no event waits."""
        clock = asyncio.get_running_loop().time
        while self._waiting:
            if (delay := self._next_write_at - clock()) > 0:
                await asyncio.sleep(delay)
            batch, self._waiting = self._waiting, []
            await self._write_batch(batch)
            self._next_write_at = clock() + _GATHER_SECONDS
        self._idle.set()

    async def _write_batch(self, batch: list[tuple[ReceivedEvent, asyncio.Future[bool]]]) -> None:
        """Store a batch in one transaction, and pass the result or the error to each delivery."""
        try:
            fresh = await self._ledger.events.receive_events([event for event, _ in batch])
        except Exception as error:  # noqa: BLE001 -- raised in `put`; this task must go on
            for _, written in batch:
                # A sender that has disconnected has cancelled its future.
                if not written.done():
                    written.set_exception(error)
            return
        for (_, written), is_new in zip(batch, fresh, strict=True):
            if not written.done():
                written.set_result(is_new)
