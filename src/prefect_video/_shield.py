"""Work that must not be left half-way, however often whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from prefect_video.errors import VideoError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
Result = TypeVar("Result")


async def run_in_thread(function: Callable[P, Result], *arguments: P.args, **options: P.kwargs) -> Result:
    """Run a function in a thread; a cancellation meanwhile is raised after its end.

    For functions that use what the caller closes, removes or uses again afterwards: a file, a lock, a folder.
    `asyncio.to_thread` lets go of them while they run.
    """
    return await shielded(asyncio.to_thread(function, *arguments, **options))


async def shielded(work: Awaitable[Result]) -> Result:
    """Lets work end; a cancellation meanwhile is raised after it.

    A shield lets go at the first cancellation. A cancel scope (anyio's, Prefect's timeouts) cancels at every `await`
    until it has been left, so what is done on the way out must be waited for again and again.
    """
    running = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as again:
            cancelled = again
    if cancelled is None:
        return running.result()
    if not running.cancelled() and (error := running.exception()) is not None:
        # Only our own errors are sure to hold no secret.
        logger.warning("while being cancelled: %s", error if isinstance(error, VideoError) else type(error).__name__)
    raise cancelled
