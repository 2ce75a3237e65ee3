"""Command with a time limit: `python -m tests.support.time_limit SECONDS COMMAND ...`.

At the limit the command receives SIGABRT first, on which Python prints the stack of each thread. A SIGTERM is passed on,
so that nothing is left running. Works on systems without `timeout` too; the exit status is 124, as with `timeout`.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

TIMED_OUT: Final = 124
_ABORT_SECONDS: Final = 10.0


def run(seconds: float, command: Sequence[str]) -> int:
    """Run a command to its end or to the limit, and return its exit status as a shell would: 124 for the limit."""
    with subprocess.Popen(command) as process:
        signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        try:
            status = _wait(process, seconds)
            return status if status >= 0 else 128 - status
        except subprocess.TimeoutExpired:
            print(f"not done after {seconds:g} s: {' '.join(command)}", file=sys.stderr, flush=True)
            process.send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_ABORT_SECONDS)
            process.kill()
            return TIMED_OUT


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int:
    while True:
        try:
            return process.wait(seconds)
        except KeyboardInterrupt:
            # Ctrl-C reaches the command too, which prints its summary before it ends.
            continue


if __name__ == "__main__":
    sys.exit(run(float(sys.argv[1]), sys.argv[2:]))
