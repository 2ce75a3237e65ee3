"""Workers in processes of their own, forked from one warm process: begun in an instant, and killed as any other."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

Order = TypeVar("Order")
Line = Connection
"""Between a worker and whoever began it: each can send to the other and receive."""

KILLED: Final = -9

_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "benchmarks.concurrency_worker",
        "benchmarks.torture_worker",
        "tests.support.claim_worker",
        # What the scripts themselves import: a fork loads the script that began it once more.
        "benchmarks.torture_verdict",
        "tests.support.postgres",
    ]
)


class End(NamedTuple):
    """How a worker ended: its exit status, negative for a signal, and what it said last."""

    status: int
    said: Mapping[str, Any]


class Worker:
    """One worker.

    Args:
        work: What it does with its order and the line to here; its exit status.
        order: What `work` is given.
        environment: Variables besides those of the time when the first worker was begun.
        log: Where what it logs is appended.
    """

    def __init__(
        self,
        work: Callable[[Order, Line], int],
        order: Order,
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.line, far_end = _FORKS.Pipe()
        arguments = (work, order, far_end, dict(environment or {}), log)
        self._process = _FORKS.Process(target=_live, args=arguments, daemon=True)
        self._process.start()
        far_end.close()

    def end(self, timeout_seconds: float = 150.0) -> End:
        """Waits for its end, and for what it says before.

        Raises:
            TimeoutError: It goes on for longer.
        """
        said: Mapping[str, Any] = {}
        try:
            if not self.line.poll(timeout_seconds):
                raise TimeoutError(f"a worker had not ended after {timeout_seconds:.0f} s")
            said = self.line.recv()
        except (EOFError, ConnectionError):
            # It was killed: the line is cut.
            pass
        self._process.join(timeout_seconds)
        status = self._process.exitcode
        if status is None:
            raise TimeoutError(f"a worker had not ended after {timeout_seconds:.0f} s")
        return End(status, said)

    def kill(self) -> None:
        """Ends it without warning; one that has ended is left as it is."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """Ends it, if it is still there, and forgets it."""
        self.kill()
        self.line.close()
        self._process.close()


def _live(
    work: Callable[[Order, Line], int], order: Order, line: Line, environment: Mapping[str, str], log: Path | None
) -> None:
    os.environ.update(environment)
    if log is not None:
        with log.open("a") as told:
            os.dup2(told.fileno(), sys.stderr.fileno())
    sys.exit(work(order, line))
