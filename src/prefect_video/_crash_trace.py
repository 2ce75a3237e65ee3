"""What a crash of the interpreter itself leaves behind: where each of its threads stood."""

from __future__ import annotations

import contextlib
import faulthandler
import sys


def enable_crash_trace() -> None:
    """Make a fatal signal print the stack of every thread to standard error before it ends the process.

    Leave it as it is where it was enabled by someone else (`-X faulthandler`, PYTHONFAULTHANDLER, a test runner).
    """
    # The process's own stream: what stands in its place, in a notebook or under capture, may be no file or be closed.
    stream = sys.__stderr__
    if faulthandler.is_enabled() or stream is None:
        return
    # A stream that was closed or detached has no descriptor to write to.
    with contextlib.suppress(ValueError, OSError):
        faulthandler.enable(stream)
