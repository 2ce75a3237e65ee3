"""Threads in which videos are measured and decoded: few, as each keeps the memory that its decoders have needed.

Two keep as many cores busy as a run's videos need, and FFmpeg decodes one video on several cores anyway; the event
loop's own pool would decode in up to 32 threads, at some 10 MB each for a video of 720p.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")

_POOL: Final = ThreadPoolExecutor(max_workers=2, thread_name_prefix="video-decoder")


async def decode_in_thread(function: Callable[P, Result], *arguments: P.args, **options: P.kwargs) -> Result:
    """Run a function that decodes a video, as `asyncio.to_thread` runs any other."""
    call = partial(copy_context().run, function, *arguments, **options)
    return await asyncio.get_running_loop().run_in_executor(_POOL, call)
