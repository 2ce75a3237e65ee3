"""Workers by fork from one warm process: begun in an instant, and killed as any other.

    python -m benchmarks.torture_forks

Reads orders from its input, one JSON line each, and prints how the worker of each ended, one JSON line each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from benchmarks.torture_worker import Order, work

ROOT: Final = Path(__file__).parents[1]


class End(NamedTuple):
    """How a worker ended: its exit status, negative for a signal, and what it said last."""

    status: int
    said: dict[str, Any]


class Forks:
    """The warm process, from its parent's side."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks.torture_forks"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, order: Order) -> End:
        """One worker, from its start to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(order.model_dump_json(), file=self._process.stdin, flush=True)
        return End(*json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def _fork(order: Order) -> End:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.dup2(writing, sys.stdout.fileno())
            status = work(order)
        except Exception:  # noqa: BLE001 -- a worker must never come to read its parent's orders
            traceback.print_exc()
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as words:
        said = words.read()
    _, waited = os.waitpid(pid, 0)
    return End(os.waitstatus_to_exitcode(waited), json.loads(said) if said else {})


def main() -> None:
    """Serves until its input ends."""
    for line in sys.stdin:
        print(json.dumps(_fork(Order.model_validate_json(line))), flush=True)


if __name__ == "__main__":
    main()
