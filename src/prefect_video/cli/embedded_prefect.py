"""Start-up of Prefect's embedded server, with the patience that a busy machine needs."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 0.2
_ANSWER_SECONDS: Final = 30.0
"""For one answer of a server that is starting: Prefect itself allows 5 s, and gives up on a machine that is busy."""
_STARTUP_FAILED: Final = 3
"""Exit status of a server that could not start, because another one was migrating the same database for example."""
_ATTEMPTS: Final = 5


def start_embedded_server() -> None:
    """Start the server that Prefect's clients of this process use, unless it runs; wait for its first answer.

    Raises:
        RuntimeError: It has ended, or has not answered in the time that Prefect's settings allow.
    """
    from prefect.settings import PREFECT_HOME, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    seconds = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    with _turn(PREFECT_HOME.value(), seconds):
        _start_in_time(seconds)


@contextmanager
def _turn(home: Path, seconds: float) -> Iterator[None]:
    """Let one server of a home start at a time: in an empty one they would migrate one database against each other."""
    lock = FileLock(home / "prefect-video-startup.lock")
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
    except (Timeout, OSError) as error:
        # Without its turn it is slower, and may still start.
        logger.info("the start of Prefect's embedded server does not wait for its turn: %s", error)
    try:
        yield
    finally:
        lock.release()


def _start_in_time(seconds: float) -> None:
    from prefect.server.api.server import SubprocessASGIServer

    give_up = time.monotonic() + seconds
    for attempt in range(1, _ATTEMPTS + 1):
        server = SubprocessASGIServer()
        if server.running or _start(server, give_up):
            return
        status = server.server_process.poll() if server.server_process else None
        server.stop()
        if status is None:
            raise RuntimeError(f"it has not answered within {seconds} s")
        if status != _STARTUP_FAILED or attempt == _ATTEMPTS:
            raise RuntimeError(f"it has ended with status {status}")


def _start(server: Any, give_up: float) -> bool:
    """Start a server's process and wait until it answers; return False if it ends, or does not answer in time."""
    # Prefect draws one of a thousand ports: of several runs two may draw the same, and use one server.
    server.port = _find_free_port()
    try:
        # The shortest time: while Prefect waits, it does not notice that the process has ended.
        server.start(timeout=1)
    except (httpx.HTTPError, RuntimeError):
        server.running = _answers(server, give_up)
    return bool(server.running)


def _answers(server: Any, give_up: float) -> bool:
    with httpx.Client(timeout=_ANSWER_SECONDS) as client:
        while server.server_process is not None and server.server_process.poll() is None:
            try:
                if client.get(f"{server.api_url}/health").status_code == httpx.codes.OK:
                    return True
            except httpx.TransportError:
                # Not listening yet, or too busy to answer.
                pass
            if time.monotonic() > give_up:
                return False
            time.sleep(_PAUSE_SECONDS)
    return False


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
