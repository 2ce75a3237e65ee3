"""Shield for work that must be completed even if its caller is cancelled, once or repeatedly."""

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
    """Run a function in a thread; a cancellation in the meantime is raised after its end.

    For functions with resources that the caller closes, removes or reuses afterwards: a file, a lock, a folder.
    `asyncio.to_thread` returns at a cancellation while the function still uses them.
    """
    return await shielded(asyncio.to_thread(function, *arguments, **options))


async def shielded(work: Awaitable[Result]) -> Result:
    """Wait until work has ended, and raise a cancellation in the meantime only then.

    `asyncio.shield` returns at the first cancellation. A cancel scope (anyio's, Prefect's timeouts) cancels at every
    `await` until it has been left, so that the work must be awaited again after each of them.
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
        # The cancellation is raised, so that the error is only logged; only our own errors are known to hold no secret.
        logger.warning("while being cancelled: %s", error if isinstance(error, VideoError) else type(error).__name__)
    raise cancelled
