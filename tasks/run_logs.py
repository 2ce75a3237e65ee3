"""The package's lines of the log in the runs that they belong to, without a setting.

Prefect shows a library's lines only where a setting names it, and then no INFO. Here a handler is on the package's
logger for as long as a run lasts.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final
from uuid import UUID

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler, emit_api_log
from prefect.settings import get_current_settings

_PACKAGE: Final = "prefect_video"
_COLLECT_SECONDS: Final = 0.2
"""For how long lines are collected: a tenth of what Prefect itself collects them for before it sends them."""

_outside: ContextVar[UUID | None] = ContextVar("outside", default=None)
"""The flow run that code works for which runs in no run itself, as hooks do."""


@contextmanager
def send_logs(flow_run_id: UUID | None = None) -> Iterator[None]:
    """Send the package's lines to Prefect, to the run that each was logged in, for as long as the context lasts.

    Contexts may be nested, and overlap in threads and event loops. Nothing is changed outside of any run.

    Args:
        flow_run_id: The run that the lines belong to, where the code runs outside of it.
    """
    if flow_run_id is None and not _is_in_run():
        yield
        return
    token = _outside.set(flow_run_id) if flow_run_id is not None else None
    _attachment.acquire()
    try:
        yield
    finally:
        _attachment.release()
        if token is not None:
            _outside.reset(token)


class RunLogHandler(APILogHandler):
    """Handler that sends to Prefect the lines of runs which no other handler sends.

    Lines of an event loop are handed over several at a time: for each that comes alone Prefect wakes two threads.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines_lock = threading.Lock()
        self._lines: list[dict[str, Any]] = []
        self._timer_loop: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line to its run; one that was logged outside of any run is not sent."""
        # Looked up for each line: a setting (PREFECT_LOGGING_EXTRA_LOGGERS) may come into force during a run.
        if _is_sent_already(record.name):
            return
        flow_run_id = _outside.get()
        if flow_run_id is not None:
            record = copy.copy(record)
            record.flow_run_id = str(flow_run_id)
        elif not _is_in_run():
            return
        if not get_current_settings().logging.to_api.enabled or not getattr(record, "send_to_api", True):
            return
        try:
            line = self.prepare(record)
            with self._lines_lock:
                self._lines.append(line)
            self._hand_over_soon()
        except Exception:  # noqa: BLE001 -- as every handler does: a line that fails must not fail the program
            self.handleError(record)

    def hand_over(self) -> None:
        """Hand all lines that are collected to Prefect, which sends them in the background."""
        with self._lines_lock:
            lines, self._lines, self._timer_loop = self._lines, [], None
        for line in lines:
            emit_api_log(line)

    def _hand_over_soon(self) -> None:
        loop = _find_running_loop()
        if loop is None:
            # A thread has nothing that would do it later.
            self.hand_over()
        elif self._timer_loop is not loop:
            self._timer_loop = loop
            loop.call_later(_COLLECT_SECONDS, self.hand_over)


class _Attachment:
    """The handler on the package's logger, and the number of contexts of each event loop that need it there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handler = RunLogHandler()
        self._users = Counter[asyncio.AbstractEventLoop | None]()
        self._sets_level = False

    def acquire(self) -> None:
        """Attach the handler, unless it is attached; let INFO pass where no program has set another level."""
        logger = logging.getLogger(_PACKAGE)
        with self._lock:
            if not self._users:
                logger.addHandler(self._handler)
                self._sets_level = logger.level == logging.NOTSET
                if self._sets_level:
                    logger.setLevel(logging.INFO)
            self._users[_find_running_loop()] += 1

    def release(self) -> None:
        """Leave the logger as it was, once the last context has ended; no line outlasts the contexts of its loop."""
        logger = logging.getLogger(_PACKAGE)
        loop = _find_running_loop()
        with self._lock:
            self._users[loop] -= 1
            is_last = not self._users[loop]
            if is_last:
                del self._users[loop]
            if not self._users:
                logger.removeHandler(self._handler)
                if self._sets_level and logger.level == logging.INFO:
                    logger.setLevel(logging.NOTSET)
        if is_last:
            self._handler.hand_over()


_attachment = _Attachment()


def _find_running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _is_in_run() -> bool:
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def _is_sent_already(name: str) -> bool:
    """Tell whether another handler of Prefect's gets the lines of a logger."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(isinstance(item, APILogHandler) and not isinstance(item, RunLogHandler) for item in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False
