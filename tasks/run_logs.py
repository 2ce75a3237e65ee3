"""The package's lines of the log in the runs that they belong to, without a setting.

Prefect shows a library's lines only where a setting names it, and then no INFO. Here a handler is on the package's
logger for as long as a run lasts.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final
from uuid import UUID

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

_PACKAGE: Final = "prefect_video"

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
    """Handler that sends to Prefect the lines of runs which no other handler sends."""

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
        super().emit(record)


class _Attachment:
    """The handler on the package's logger, and the number of contexts that need it there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handler = RunLogHandler()
        self._users = 0
        self._sets_level = False

    def acquire(self) -> None:
        """Attach the handler, unless it is attached; let INFO pass where no program has set another level."""
        logger = logging.getLogger(_PACKAGE)
        with self._lock:
            self._users += 1
            if self._users == 1:
                logger.addHandler(self._handler)
                self._sets_level = logger.level == logging.NOTSET
                if self._sets_level:
                    logger.setLevel(logging.INFO)

    def release(self) -> None:
        """Leave the logger as it was, once the last context has ended."""
        logger = logging.getLogger(_PACKAGE)
        with self._lock:
            self._users -= 1
            if self._users == 0:
                logger.removeHandler(self._handler)
                if self._sets_level and logger.level == logging.INFO:
                    logger.setLevel(logging.NOTSET)


_attachment = _Attachment()


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
