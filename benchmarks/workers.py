"""Worker processes forked from one warm process: they start at once, and can be killed like any other."""

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
"""Connection between a worker and the process that started it; both sides send and receive."""

KILLED: Final = -9

_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "benchmarks.concurrency_worker",
        "benchmarks.torture_worker",
        "tests.support.claim_worker",
        # The imports of the scripts themselves: a fork imports the script that started it again.
        "benchmarks.torture_verdict",
        "tests.support.postgres",
    ]
)


class End(NamedTuple):
    """End of a worker.

    Attributes:
        status: Its exit status, negative for a signal.
        report: Its last message; empty if it was killed before.
    """

    status: int
    report: Mapping[str, Any]


class Worker:
    """Running worker process.

    Args:
        work: Function that the process runs with its order and its line; returns the exit status.
        order: Argument of `work`.
        environment: Variables besides those at the time when the first worker was started.
        log: File that its standard error is appended to.

    Attributes:
        line: This side of the line to the process.
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
        self._process = _FORKS.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        far_end.close()

    def end(self, timeout_seconds: float = 150.0) -> End:
        """Wait for the report and the end of the process.

        Raises:
            TimeoutError: The process runs for longer.
        """
        report: Mapping[str, Any] = {}
        try:
            if not self.line.poll(timeout_seconds):
                raise TimeoutError(f"a worker had not ended after {timeout_seconds:.0f} s")
            report = self.line.recv()
        except (EOFError, ConnectionError):
            # The process was killed before it sent a report.
            pass
        self._process.join(timeout_seconds)
        status = self._process.exitcode
        if status is None:
            raise TimeoutError(f"a worker had not ended after {timeout_seconds:.0f} s")
        return End(status, report)

    def kill(self) -> None:
        """Kill the process without warning; do nothing if it has ended."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """Kill the process if it still runs, and release its resources."""
        self.kill()
        self.line.close()
        self._process.close()


def _run(
    work: Callable[[Order, Line], int], order: Order, line: Line, environment: Mapping[str, str], log: Path | None
) -> None:
    os.environ.update(environment)
    if log is not None:
        with log.open("a") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(work(order, line))
