"""Writing deliveries down before they are acknowledged: those that come in together share one transaction."""

from __future__ import annotations

import asyncio

from prefect_video.ledger import Ledger, ReceivedEvent


class Inbox:
    """Makes events durable; while one transaction is being committed, the next ones gather."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[ReceivedEvent, asyncio.Future[bool]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def put(self, event: ReceivedEvent) -> bool:
        """Writes an event down.

        Returns:
            Whether it is new.

        Raises:
            LedgerError: It could not be written, and must not be acknowledged.
        """
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="webhook inbox")
        return await written

    async def aclose(self) -> None:
        """Waits for what is being written."""
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                fresh = await self._ledger.receive_events([event for event, _ in batch])
            except Exception as error:  # noqa: BLE001  theirs: each waits for an answer, and the next ones for this task
                for _, written in batch:
                    if not written.done():
                        written.set_exception(error)
                continue
            for (_, written), is_new in zip(batch, fresh, strict=True):
                if not written.done():
                    written.set_result(is_new)
