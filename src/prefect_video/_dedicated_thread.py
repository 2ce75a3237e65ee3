"""Thread that owns a native handle: all functions that use the handle run there, in order.

`asyncio.to_thread` abandons its thread when the awaiting task is cancelled: the thread continues, and closing the
handle in the meantime, from another thread, crashes the process. Here closing is one more function in the same queue,
so that it follows all uses of the handle.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from prefect_video._shield import shielded

P = ParamSpec("P")
Result = TypeVar("Result")


class DedicatedThread:
    """Daemon thread that runs functions one after another, in the order in which they are submitted (an executor).

    It starts with the first function. A process that ends does not wait for it.

    Args:
        name: Name of the thread, for traces.
    """

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_run_all, args=(self._queue,), name=name, daemon=True)
        self._stopped = False
        # No lock: each counter has one writer, the submitting side or the thread.
        self._submitted = 0
        self._done = 0

    @property
    def is_idle(self) -> bool:
        """True when all submitted functions are done."""
        return self._done == self._submitted

    @property
    def is_current(self) -> bool:
        """True in a function that this thread runs."""
        return threading.get_ident() == self._thread.ident

    @property
    def is_stopped(self) -> bool:
        """True when no more functions are accepted."""
        return self._stopped

    async def run(self, function: Callable[P, Result], *arguments: P.args, **options: P.kwargs) -> Result:
        """Run a function in the thread, after all that were submitted before, and return its result.

        A cancellation ends only the wait: the function still runs, before anything that is submitted later.

        Raises:
            RuntimeError: The thread was stopped.
        """
        return await self._submit(function, *arguments, **options)

    async def close(self, last: Callable[[], object]) -> None:
        """Run a last function, after all that were submitted before, and end the thread.

        Wait for it even while the caller is being cancelled. Do nothing the second time, or where no function was ever
        submitted.
        """
        if not self._can_end():
            return
        closed = self._submit(last)
        self._end()
        await shielded(closed)

    def stop(self, last: Callable[[], object]) -> None:
        """End the thread like `close` but return at once; for code that cannot await, such as a finalizer."""
        if self._can_end():
            self._enqueue(last)
            self._end()

    def _submit(self, function: Callable[P, Result], *arguments: P.args, **options: P.kwargs) -> asyncio.Future[Result]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        # As `asyncio.to_thread` does: what the function logs belongs to the run that has called it.
        context = copy_context()

        def call() -> None:
            settle: Callable[[], None]
            try:
                result = context.run(function, *arguments, **options)
            except BaseException as error:  # noqa: BLE001  raised where the result is awaited
                settle = partial(future.set_exception, error)
            else:
                settle = partial(future.set_result, result)
            self._done += 1
            # A closed loop has no waiting tasks left.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, settle)

        self._submitted += 1
        self._enqueue(call)
        return future

    def _enqueue(self, call: Callable[[], object]) -> None:
        if self._stopped:
            raise RuntimeError(f"the thread {self._thread.name} was stopped and takes no more work")
        if self._thread.ident is None:
            self._thread.start()
        self._queue.put(call)

    def _can_end(self) -> bool:
        if self._thread.ident is None:
            self._stopped = True
        return not self._stopped

    def _end(self) -> None:
        self._stopped = True
        self._queue.put(None)


def _run_all(queue: SimpleQueue[Callable[[], object] | None]) -> None:
    while (call := queue.get()) is not None:
        call()
        # While the thread waits for the next function, this one's objects must be collectable.
        del call


def _settle(future: asyncio.Future[Any], settle: Callable[[], None]) -> None:
    # The future of a cancelled task is done already.
    if not future.done():
        settle()
