"""The priority of threads, kept while a library that raises it is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_THREADS = Path("/proc/self/task")


@contextmanager
def keep_thread_priority() -> Iterator[None]:
    """Give the calling thread, and the threads that begin within the block, the priority that the caller has now.

    SVT-AV1, opened by root as in most containers, makes its caller a real-time thread of the highest priority
    (`SCHED_FIFO`, 99), and its forty threads, and whatever the caller starts later, inherit that: little else runs on
    the machine while a film is encoded. Only Linux has such threads; elsewhere the block runs as it is.
    """
    if sys.platform != "linux":
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    earlier = _thread_ids()
    try:
        yield
    finally:
        # The first is the caller itself.
        for thread_id in (0, *(_thread_ids() - earlier)):
            # A thread may have ended since the folder was read.
            with suppress(ProcessLookupError):
                if os.sched_getscheduler(thread_id) != policy:
                    os.sched_setscheduler(thread_id, policy, parameters)


def _thread_ids() -> set[int]:
    return {int(entry.name) for entry in _THREADS.iterdir()}
