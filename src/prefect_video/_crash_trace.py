"""Trace of a crash of the interpreter itself: the stack of each of its threads."""

from __future__ import annotations

import contextlib
import faulthandler
import sys


def enable_crash_trace() -> None:
    """Make a fatal signal print the stack of every thread to standard error before it ends the process.

    Do nothing where it is enabled already (`-X faulthandler`, PYTHONFAULTHANDLER, a test runner).
    """
    # The process's own stream: a replacement, in a notebook or under capture, may be no file or be closed.
    stream = sys.__stderr__
    if faulthandler.is_enabled() or stream is None:
        return
    # A stream that was closed or detached has no descriptor to write to.
    with contextlib.suppress(ValueError, OSError):
        faulthandler.enable(stream)
