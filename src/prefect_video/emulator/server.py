"""Runs the emulator: two HTTP servers and the engine on one event loop, here or in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount

from prefect_video.emulator import admin
from prefect_video.emulator.dialects import fal, openrouter, replicate, sora
from prefect_video.emulator.dialects.openai import routes as openai
from prefect_video.emulator.download_host import DownloadHost
from prefect_video.emulator.engine import Engine
from prefect_video.emulator.faults.broken_responses import ReachableProtocol
from prefect_video.emulator.rendering.clips import ClipLibrary
from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.emulator.signed_urls import LinkSigner
from prefect_video.emulator.state_store import MemoryStateStore, SqliteStateStore, StateStore
from prefect_video.emulator.webhook_sender import WebhookFormatter, WebhookSender

BACKLOG = 2048


class Dialect(WebhookFormatter, Protocol):
    """Routes over the engine, and the words of its webhooks."""

    def app(self) -> Starlette:
        """The ASGI application of the routes."""


@dataclass(frozen=True)
class Addresses:
    """Where a running emulator is reached.

    Attributes:
        url: Root of the API server, under which ``/_emulator`` is.
        endpoint: Base URL of the Sora dialect.
        cdn: Root of the download host.
    """

    url: str
    endpoint: str
    cdn: str


@dataclass(frozen=True)
class Running:
    """A running emulator: its addresses and its engine."""

    addresses: Addresses
    engine: Engine


async def serve(settings: EmulatorSettings, ready: Callable[[Addresses], None] | None = None) -> None:
    """Run until cancelled, or until SIGINT or SIGTERM when on the main thread.

    Args:
        settings: How to behave.
        ready: Called once with the addresses, when requests are answered.

    Raises:
        OSError: A port cannot be bound; the message names it.
        StateStoreError: The ``db`` file cannot be used.
    """
    stop = asyncio.Event()
    async with running(settings) as emulator:
        with _signals(stop):
            if ready is not None:
                ready(emulator.addresses)
            await stop.wait()


@contextlib.asynccontextmanager
async def running(settings: EmulatorSettings) -> AsyncIterator[Running]:
    """The emulator on the current event loop, for as long as the context lasts.

    Raises:
        OSError: A port cannot be bound; the message names it.
        StateStoreError: The ``db`` file cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        api_socket = stack.enter_context(_bind(settings.host, settings.port))
        cdn_socket = stack.enter_context(_bind(settings.host, settings.cdn_port))
        signer = LinkSigner(settings)
        signer.base = _address(settings, cdn_socket)
        engine = await _start_engine(settings, stack)
        dialects: dict[str, tuple[str, Dialect]] = {
            sora.DIALECT: (sora.PREFIX, sora.SoraDialect(engine, signer)),
            openrouter.DIALECT: (openrouter.PREFIX, openrouter.OpenRouterDialect(engine, signer)),
            fal.DIALECT: (fal.PREFIX, fal.FalDialect(engine, signer)),
            replicate.DIALECT: (replicate.PREFIX, replicate.ReplicateDialect(engine, signer)),
            **openai.dialects(engine, signer),
        }
        courier = WebhookSender(engine, {name: dialect for name, (_, dialect) in dialects.items()})
        stack.push_async_callback(courier.close)
        await engine.load()
        mounts = [Mount(prefix, dialect.app()) for prefix, dialect in dialects.values()]
        routes = [*mounts, Mount(admin.PREFIX, admin.Admin(engine).app())]
        api = Starlette(routes=routes, exception_handlers={HTTPException: _unknown_path})
        downloads = DownloadHost(engine, signer).app()
        await _start_servers(stack, [(api, api_socket), (downloads, cdn_socket)])
        stack.push_async_callback(engine.close)
        _run_in_background(stack, engine)
        url = _address(settings, api_socket)
        yield Running(Addresses(url=url, endpoint=url + sora.PREFIX, cdn=signer.base), engine)


def _unknown_path(request: Request, error: Exception) -> Response:
    """No dialect has such a path; no line break can stand in the path of a mounted one either."""
    assert isinstance(error, HTTPException)
    told = {"message": str(error.detail), "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": told}, error.status_code, error.headers)


async def _start_engine(settings: EmulatorSettings, stack: contextlib.AsyncExitStack) -> Engine:
    """The engine with its journal and clips; with ``db`` the clips lie beside it and outlive the process."""
    journal: StateStore
    if settings.db is not None:
        journal, folder = SqliteStateStore(settings.db), settings.db.with_name(f"{settings.db.name}.clips")
    else:
        journal, folder = MemoryStateStore(), Path(_passing_clips().name)
    stack.push_async_callback(journal.close)
    clips = ClipLibrary(settings, folder)
    stack.push_async_callback(clips.close)
    return Engine(settings, journal, clips)


@cache
def _passing_clips() -> tempfile.TemporaryDirectory[str]:
    """Where the clips of emulators without ``db`` lie until the process ends: they look the same from each of them."""
    return tempfile.TemporaryDirectory(prefix="emulator-clips-")


def _run_in_background(stack: contextlib.AsyncExitStack, engine: Engine) -> None:
    task = asyncio.create_task(engine.run())

    async def stop() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(stop)


async def _start_servers(stack: contextlib.AsyncExitStack, apps: Sequence[tuple[Starlette, socket.socket]]) -> None:
    servers = [await _start_server(app, bound) for app, bound in apps]
    ticking = [asyncio.create_task(server.main_loop()) for server in servers]

    async def stop() -> None:
        for task in ticking:
            task.cancel()
        await asyncio.gather(*ticking, return_exceptions=True)
        stopping = zip(servers, apps, strict=True)
        await asyncio.gather(*(server.shutdown(sockets=[bound]) for server, (_, bound) in stopping))

    stack.push_async_callback(stop)


async def _start_server(app: Starlette, bound: socket.socket) -> uvicorn.Server:
    """A uvicorn server without its signal handlers, which belong to whoever runs the process."""
    config = uvicorn.Config(
        app,
        http=ReachableProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=None,
        backlog=BACKLOG,
        timeout_graceful_shutdown=1,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[bound])
    return server


def _bind(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(
            error.errno,
            f"Cannot listen on {host}:{port} ({error.strerror}); choose another port, or 0 for a free one",
        ) from error


def _address(settings: EmulatorSettings, bound: socket.socket) -> str:
    host = settings.link_host
    return f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into ``stop``, where signals can be had."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
