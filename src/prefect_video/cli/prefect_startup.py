"""Prefect's start-up: its settings before it is imported, what is being waited for, and whose logs are shown."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

from prefect_video.cli.output import one_line, print_status

STARTUP_SETTINGS: Final = {
    # In an empty home the embedded server migrates its database first; Prefect itself gives up after 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # Its telemetry writes while that is going on, and prints a traceback ("database is locked").
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
}
"""What is set for our runs; whatever the user set wins."""

_SERVER_CONSOLE: Final = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"

_FOREIGN: Final = ("httpx", "httpcore", "alembic", "sqlalchemy", "aiosqlite", "asyncio", "aiobotocore", "botocore")
_PREFECT_WORKERS: Final = ("EventsWorker", "APILogWorker")
"""Prefect's background senders; at exit they warn of what they are still sending."""
_PREFECT_EVENTS: Final = ("prefect.events", "prefect._internal.concurrency")
"""When the API is gone they print every event that they cannot send; that it is gone the run says itself."""


class PrefectUnavailable(Exception):
    """Prefect's API cannot be used; the message says what to do."""


def configure_logging() -> None:
    """Shows this package's warnings, one line each, and of the libraries below only what is worse."""
    handler = _WarningLines()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_OneLine())
    handler.addFilter(_is_not_in_the_report)
    ours = logging.getLogger("prefect_video")
    ours.handlers = [one for one in ours.handlers if not isinstance(one, _WarningLines)] + [handler]
    ours.propagate = False
    for name in (*_FOREIGN, *_PREFECT_WORKERS):
        logging.getLogger(name).setLevel(logging.ERROR)


@cache
def ensure_api() -> None:
    """Imports Prefect and makes sure, once, that its API answers; starts the embedded server where none is configured.

    Raises:
        PrefectUnavailable: There is no answer.
    """
    chosen_level = "PREFECT_LOGGING_LEVEL" in os.environ
    if "PREFECT_SERVER_ANALYTICS_ENABLED" not in os.environ:
        # The client has a notice of its own, which that setting does not silence.
        os.environ.setdefault("DO_NOT_TRACK", "1")
    for name, value in STARTUP_SETTINGS.items():
        os.environ.setdefault(name, value)
    from prefect.logging.configuration import setup_logging
    from prefect.settings import PREFECT_API_URL

    setup_logging()
    url = PREFECT_API_URL.value()
    if url:
        print_status(f"using the Prefect API at {url}")
    else:
        print_status("starting Prefect's embedded server (the first time takes up to half a minute) …")
    if chosen_level:
        _away_from_interrupts(lambda: asyncio.run(_ask(url)))
        return
    with _silent_server():
        _away_from_interrupts(lambda: asyncio.run(_ask(url)))
    _drop_run_logs()


async def _ask(url: str | None) -> None:
    from prefect.client.orchestration import get_client

    try:
        async with get_client() as client:
            trouble = await client.api_healthcheck()
    except Exception as error:  # noqa: BLE001 -- Prefect raises bare RuntimeErrors and whatever its client met
        trouble = error
    if trouble is None:
        return
    if url:
        raise PrefectUnavailable(
            f"the Prefect API at {url} does not answer ({one_line(trouble)}). Start it (`prefect server start`),"
            " correct PREFECT_API_URL or the active profile, or unset it to use the embedded server. Nothing was sent."
        ) from trouble
    raise PrefectUnavailable(
        f"Prefect's embedded server did not start ({one_line(trouble)}). Allow it more time with"
        " PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or start one yourself (`prefect server start`) and set"
        " PREFECT_API_URL. Nothing was sent."
    ) from trouble


def _away_from_interrupts(work: Callable[[], None]) -> None:
    """Does something in a thread that blocks SIGINT, which the processes that it starts inherit.

    The embedded server must outlive a Ctrl-C by a moment, to be told of the run's end; we stop it ourselves.
    """
    failures: list[BaseException] = []

    def shielded() -> None:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            work()
        except BaseException as error:  # noqa: BLE001 -- raised again below
            failures.append(error)

    thread = threading.Thread(target=shielded, name="prefect start-up", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@contextmanager
def _silent_server() -> Iterator[None]:
    """Keeps what the embedded server logs off our stderr, which it shares: libraries complain when it is stopped."""
    chosen = os.environ.get(_SERVER_CONSOLE)
    os.environ.setdefault(_SERVER_CONSOLE, "CRITICAL")
    try:
        yield
    finally:
        if chosen is None:
            del os.environ[_SERVER_CONSOLE]


def _drop_run_logs() -> None:
    """Keeps the failures of runs, which our report tells, off the console; the API still gets them."""
    # A log that cannot be sent is told of on stderr otherwise, by the handler itself.
    logging.raiseExceptions = False
    for name in _PREFECT_EVENTS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in ("prefect", ""):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_is_not_about_a_run)


def _is_not_about_a_run(record: logging.LogRecord) -> bool:
    return not record.name.startswith(("prefect.flow_runs", "prefect.task_runs", "prefect.flow_engine"))


class _WarningLines(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever stderr is at the moment, so that a progress display can take it over."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _OneLine(logging.Formatter):
    """One line a warning; only a defect of ours shows where it happened."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname.lower()}: {' '.join(record.getMessage().split())}"
        if record.exc_info:
            return f"{line}; please report this defect:\n{self.formatException(record.exc_info)}"
        return line


def _is_not_in_the_report(record: logging.LogRecord) -> bool:
    return record.name != "prefect_video.pipeline.project_run" or bool(record.exc_info)
