"""Prefect's start-up: its settings before it is imported, its API, and the loggers that are shown."""

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

from prefect_video._proxies import check_proxies
from prefect_video.cli.embedded_prefect import start_embedded_server
from prefect_video.cli.output import one_line, print_status

STARTUP_SETTINGS: Final = {
    # In an empty home the embedded server migrates its database first; Prefect itself gives up after 20 s. Several
    # that start at once on a busy machine need minutes; one that has ended is noticed at once.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600",
    # Its telemetry writes while that is going on, and prints a traceback ("database is locked").
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
}
"""Defaults for runs of this command; a value that the user has set wins, be it in a profile or a file of Prefect's."""

_SERVER_CONSOLE: Final = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"

_FOREIGN: Final = ("httpx", "httpcore", "alembic", "sqlalchemy", "aiosqlite", "asyncio", "aiobotocore", "botocore")
_PREFECT_WORKERS: Final = ("EventsWorker", "APILogWorker")
"""Prefect's background senders; at exit they warn of items that are still queued."""
_PREFECT_EVENTS: Final = ("prefect.events", "prefect._internal.concurrency")
"""Without an API they print every event that they cannot send; the run reports a lost API itself."""


class PrefectUnavailable(Exception):
    """Prefect's API cannot be used; the message says what to do."""


def configure_logging() -> None:
    """Show this package's warnings, one line each, and errors only of the libraries below."""
    handler = _WarningLines()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_OneLine())
    handler.addFilter(_is_not_in_the_report)
    package = logging.getLogger("prefect_video")
    package.handlers = [other for other in package.handlers if not isinstance(other, _WarningLines)] + [handler]
    package.propagate = False
    for name in (*_FOREIGN, *_PREFECT_WORKERS):
        logging.getLogger(name).setLevel(logging.ERROR)


def ensure_api() -> None:
    """Import Prefect and ensure, once, that its API answers; start the embedded server where none is configured.

    Raises:
        PrefectUnavailable: The API does not answer.
        InvalidInput: A proxy of the environment cannot be used.
    """
    # Each time: the variables are those of the call, and not those with which the API was reached first.
    check_proxies()
    _reach_api()


@cache
def _reach_api() -> None:
    user_set_level = "PREFECT_LOGGING_LEVEL" not in _set_defaults()
    from prefect.logging.configuration import setup_logging
    from prefect.settings import PREFECT_API_URL

    setup_logging()
    url = PREFECT_API_URL.value()
    if url:
        print_status(f"using the Prefect API at {url}")
    else:
        print_status("starting Prefect's embedded server (the first time takes up to half a minute) …")
    if user_set_level:
        _run_without_sigint(lambda: asyncio.run(_check_api(url)))
        return
    with _silent_server():
        _run_without_sigint(lambda: asyncio.run(_check_api(url)))
    _drop_run_logs()


def _set_defaults() -> set[str]:
    """Set the defaults in the environment, which the embedded server inherits; return those that the user left open."""
    # Prefect's own look at its settings says where the user has set one: the environment, a profile, `prefect.toml`.
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    user_set = get_current_settings().to_environment_variables(exclude_unset=True)
    left_open = STARTUP_SETTINGS.keys() - user_set.keys()
    if "PREFECT_SERVER_ANALYTICS_ENABLED" in left_open:
        # The client prints a notice of its own, which Prefect's setting does not silence.
        os.environ.setdefault("DO_NOT_TRACK", "1")
    for name in left_open:
        os.environ[name] = STARTUP_SETTINGS[name]
    refresh_global_settings_context()
    return left_open


async def _check_api(url: str | None) -> None:
    """Raise `PrefectUnavailable` if the API does not answer."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_SERVER_ALLOW_EPHEMERAL_MODE

    try:
        if not url and PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
            await asyncio.to_thread(start_embedded_server)
        async with get_client() as client:
            failure = await client.api_healthcheck()
    except Exception as error:  # noqa: BLE001 -- Prefect raises bare RuntimeErrors and its HTTP client's errors
        failure = error
    if failure is None:
        return
    if url:
        raise PrefectUnavailable(
            f"the Prefect API at {url} does not answer ({one_line(failure)}). Start it (`prefect server start`),"
            " correct PREFECT_API_URL or the active profile, or unset it to use the embedded server. Nothing was sent."
        ) from failure
    raise PrefectUnavailable(
        f"Prefect's embedded server did not start ({one_line(failure)}). Allow it more time with"
        " PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or start one yourself (`prefect server start`) and set"
        " PREFECT_API_URL. Nothing was sent."
    ) from failure


def _run_without_sigint(work: Callable[[], None]) -> None:
    """Run a function in a thread that blocks SIGINT, a signal mask that the processes it starts inherit.

    The embedded server must outlive a Ctrl-C long enough to record the run's end; this process stops it.
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
    """Keep the embedded server's logs off stderr, which it shares: its libraries complain when it is stopped."""
    user_level = os.environ.get(_SERVER_CONSOLE)
    os.environ.setdefault(_SERVER_CONSOLE, "CRITICAL")
    try:
        yield
    finally:
        if user_level is None:
            del os.environ[_SERVER_CONSOLE]


def _drop_run_logs() -> None:
    """Keep failures of runs, which the report shows, off the console; the API still receives them."""
    # Otherwise the handler itself prints a traceback for each log that it cannot send.
    logging.raiseExceptions = False
    for name in _PREFECT_EVENTS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in ("prefect", ""):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_is_not_about_a_run)


def _is_not_about_a_run(record: logging.LogRecord) -> bool:
    return not record.name.startswith(("prefect.flow_runs", "prefect.task_runs", "prefect.flow_engine"))


class _WarningLines(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler that writes to the present `sys.stderr`, which a progress display replaces while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _OneLine(logging.Formatter):
    """A formatter of one line per warning; only a defect of this package shows its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname.lower()}: {' '.join(record.getMessage().split())}"
        if record.exc_info:
            return f"{line}; please report this defect:\n{self.formatException(record.exc_info)}"
        return line


def _is_not_in_the_report(record: logging.LogRecord) -> bool:
    return record.name != "prefect_video.pipeline.project_run" or bool(record.exc_info)
