"""Garbage collections without what was there before a run: modules and their classes, hundreds of thousands of objects.

A full collection looks at each of them, while the event loop stands still for a tenth of a second: no slot is filled,
and no end noticed.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_runs = 0
_is_ours = False


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Leave the objects that exist now out of garbage collections for as long as the context lasts.

    Contexts may overlap, in threads too; the last to end lets everything be collected again. A program that has frozen
    its objects itself is left alone.
    """
    global _runs, _is_ours
    with _lock:
        _runs += 1
        if _runs == 1 and not gc.get_freeze_count():
            gc.freeze()
            _is_ours = True
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if _runs == 0 and _is_ours:
                gc.unfreeze()
                _is_ours = False
