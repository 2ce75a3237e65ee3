"""Writing deliveries down before they are acknowledged: those that come in together share one transaction."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from prefect_video.ledger import Ledger, ReceivedEvent

_GATHER_SECONDS: Final = 0.005
"""Between two transactions: one costs as much as ten events do, and a storm would fill the processor with them."""

_PATIENCE_SECONDS: Final = 0.02
"""How long other work gives way at a time: a storm that lasts must not bring it to a halt."""


class Inbox:
    """Makes events durable; while one transaction is being committed, and shortly after it, the next ones gather."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._free_at = 0.0
        self._empty = asyncio.Event()
        self._empty.set()
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
        self._empty.clear()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="webhook inbox")
        return await written

    async def wait_until_idle(self) -> None:
        """Returns when nobody waits for an answer, or has for long: whatever else there is to do gives way."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._empty.wait()

    async def aclose(self) -> None:
        """Waits for what is being written."""
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        clock = asyncio.get_running_loop().time
        while self._waiting:
            if (early := self._free_at - clock()) > 0:
                await asyncio.sleep(early)
            batch, self._waiting = self._waiting, []
            await self._settle(batch)
            self._free_at = clock() + _GATHER_SECONDS
        self._empty.set()

    async def _settle(self, batch: list[tuple[ReceivedEvent, asyncio.Future[bool]]]) -> None:
        try:
            fresh = await self._ledger.events.receive_events([event for event, _ in batch])
        except Exception as error:  # noqa: BLE001  theirs: each waits for an answer, and the next ones for this task
            for _, written in batch:
                if not written.done():
                    written.set_exception(error)
            return
        for (_, written), is_new in zip(batch, fresh, strict=True):
            if not written.done():
                written.set_result(is_new)
