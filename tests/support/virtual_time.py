"""An event loop on which waiting takes no time: when nothing else is left to do, its clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

STEPS_LIMIT = 2_000_000
"""More iterations than any test needs: a loop that takes more does not end."""


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.steps = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.steps += 1
        if self.steps > STEPS_LIMIT:
            raise RuntimeError("the loop does not end")
        if timeout is None:
            raise RuntimeError("all tasks wait and no timer is due: this would hang indefinitely")
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work())


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()
