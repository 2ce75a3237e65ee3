"""Stream of a job's events: the lines of its history in the ledger, sent as they are written (server-sent events)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

from prefect_video.errors import LedgerError
from prefect_video.ledger import Ledger, NumberedEntry
from prefect_video.service.jobs.service import JobService
from prefect_video.service.jobs.views import ENDED

logger = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 5.0
"""The ledger is read after this long without a reported change: a notification may have been lost."""
_KEEP_ALIVE: Final = b": waiting\n\n"
"""A comment, so that proxies do not close a connection that is silent."""
_LONGEST_SECONDS: Final = 3600.0
"""A client connects again after this long, with the number of the last event that it has."""


class JobChanges:
    """Changes of any jobs, heard once for all who wait for one.

    Args:
        ledger: The ledger.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._changed = asyncio.Event()
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    def mark(self) -> int:
        """Return the number of changes so far; to be taken before a read, so that none is missed after it."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen(), name="listen to changes of jobs")
        return self._count

    async def wait(self, mark: int, seconds: float) -> None:
        """Wait until a job may have changed since a mark, or until the time is over."""
        if self._count != mark:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def aclose(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        feed = self._ledger.changes()
        try:
            while True:
                changed = await feed.wait(_LOOK_SECONDS)
                if changed is None or changed:
                    self._count += 1
                    self._changed.set()
                    self._changed = asyncio.Event()
        finally:
            await feed.aclose()


async def stream_events(
    jobs: JobService, changes: JobChanges, job_id: str, *, after: int, stopping: asyncio.Event | None
) -> AsyncIterator[bytes]:
    """Yield the events of a job after the one with a number, until the job has ended.

    Args:
        jobs: Reads the jobs.
        changes: Says when a read is worth it.
        job_id: The job.
        after: Number of the last event that the client has; 0 for none.
        stopping: Set when the service is about to end.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + _LONGEST_SECONDS
    while clock() < until:
        mark = changes.mark()
        try:
            # In this order: what is written between the two reads is found by the next read.
            job = await jobs.find(job_id)
            entries = await jobs.history_after(job_id, after)
        except LedgerError as error:
            logger.warning("job %s: its events cannot be read now: %s", job_id, error)
            return
        for entry in entries:
            after = entry.number
            yield _format("state", _describe(entry), number=entry.number)
        if job is None or (job.status in ENDED and not entries):
            if job is not None:
                yield _format("end", job.model_dump(mode="json"))
            return
        if entries:
            continue
        if await _wait(changes, mark, stopping):
            return
        yield _KEEP_ALIVE


async def _wait(changes: JobChanges, mark: int, stopping: asyncio.Event | None) -> bool:
    """Wait for a change; return whether the service is about to end."""
    waits = [asyncio.ensure_future(changes.wait(mark, _LOOK_SECONDS))]
    if stopping is not None:
        waits.append(asyncio.ensure_future(_is_set(stopping)))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return stopping is not None and stopping.is_set()


async def _is_set(event: asyncio.Event) -> None:
    await event.wait()


def _describe(line: NumberedEntry) -> dict[str, Any]:
    entry = line.entry
    return {
        "job_id": entry.job_id,
        "at": entry.at.isoformat(),
        "from": entry.from_state,
        "to": entry.to_state,
        "detail": entry.detail,
    }


def _format(event: str, data: dict[str, Any], *, number: int | None = None) -> bytes:
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {event}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode("utf-8", "replace")
