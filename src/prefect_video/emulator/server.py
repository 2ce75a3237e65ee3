"""Server of the emulator: two HTTP servers and the engine on one event loop."""

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
from prefect_video.emulator.dialects.openai import build_dialects as build_openai_dialects
from prefect_video.emulator.download_host import DownloadHost
from prefect_video.emulator.engine import Engine
from prefect_video.emulator.faults.broken_responses import ReachableProtocol
from prefect_video.emulator.rendering import ClipLibrary
from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.emulator.signed_urls import LinkSigner
from prefect_video.emulator.state_store import MemoryStateStore, SqliteStateStore, StateStore
from prefect_video.emulator.webhook_sender import WebhookFormatter, WebhookSender

BACKLOG = 2048
"""Connections that may wait to be accepted; benchmarks open a thousand at once."""


class Dialect(WebhookFormatter, Protocol):
    """Dialect of one provider: its routes over the engine, and the format of its webhooks."""

    def app(self) -> Starlette:
        """Build the ASGI application of the routes."""


@dataclass(frozen=True)
class Addresses:
    """Addresses of a running emulator.

    Attributes:
        url: Root of the API server; the admin API is under `/_emulator`.
        endpoint: Base URL of the Sora dialect.
        cdn: Root of the download host.
    """

    url: str
    endpoint: str
    cdn: str


@dataclass(frozen=True)
class RunningEmulator:
    """Running emulator: its addresses and its engine."""

    addresses: Addresses
    engine: Engine


async def serve(settings: EmulatorSettings, ready: Callable[[Addresses], None] | None = None) -> None:
    """Run an emulator until cancelled, or until SIGINT or SIGTERM when on the main thread.

    Args:
        settings: Settings of the emulator.
        ready: Called once with the addresses, as soon as requests are answered.

    Raises:
        OSError: A port cannot be bound; the message names it.
        StateStoreError: The `db` file cannot be used.
    """
    stop = asyncio.Event()
    async with run_emulator(settings) as emulator:
        with _stop_on_signal(stop):
            if ready is not None:
                ready(emulator.addresses)
            await stop.wait()


@contextlib.asynccontextmanager
async def run_emulator(settings: EmulatorSettings) -> AsyncIterator[RunningEmulator]:
    """Run an emulator on the current event loop for as long as the context lasts.

    Raises:
        OSError: A port cannot be bound; the message names it.
        StateStoreError: The `db` file cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        api_socket = stack.enter_context(_bind(settings.host, settings.port))
        cdn_socket = stack.enter_context(_bind(settings.host, settings.cdn_port))
        signer = LinkSigner(settings)
        signer.base = _address(settings, cdn_socket)
        engine = await _start_engine(settings, stack)
        dialects = _build_dialects(engine, signer)
        webhook_sender = WebhookSender(engine, {name: dialect for name, (_, dialect) in dialects.items()})
        stack.push_async_callback(webhook_sender.close)
        await engine.load()
        mounts = [Mount(prefix, dialect.app()) for prefix, dialect in dialects.values()]
        routes = [*mounts, Mount(admin.PREFIX, admin.Admin(engine).app())]
        api = Starlette(routes=routes, exception_handlers={HTTPException: _render_not_found})
        downloads = DownloadHost(engine, signer).app()
        await _start_servers(stack, [(api, api_socket), (downloads, cdn_socket)])
        # The stack unwinds in reverse: first the scheduler stops, then the engine commits, then the servers and the
        # webhook sender close, and the state store last.
        stack.push_async_callback(engine.close)
        _run_in_background(stack, engine)
        url = _address(settings, api_socket)
        yield RunningEmulator(Addresses(url=url, endpoint=url + sora.PREFIX, cdn=signer.base), engine)


def _build_dialects(engine: Engine, signer: LinkSigner) -> dict[str, tuple[str, Dialect]]:
    """Return every dialect by its name, with the prefix at which it is mounted."""
    return {
        sora.DIALECT: (sora.PREFIX, sora.SoraDialect(engine, signer)),
        openrouter.DIALECT: (openrouter.PREFIX, openrouter.OpenRouterDialect(engine, signer)),
        fal.DIALECT: (fal.PREFIX, fal.FalDialect(engine, signer)),
        replicate.DIALECT: (replicate.PREFIX, replicate.ReplicateDialect(engine, signer)),
        **build_openai_dialects(engine, signer),
    }


def _render_not_found(request: Request, error: Exception) -> Response:
    """Answer 404 for a path outside of every dialect, also for one with a line break that no mount matches."""
    assert isinstance(error, HTTPException)
    error_body = {"message": str(error.detail), "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": error_body}, error.status_code, error.headers)


async def _start_engine(settings: EmulatorSettings, stack: contextlib.AsyncExitStack) -> Engine:
    """Build the engine with its state store and clips; with `db` the clips lie beside it and outlive the process."""
    state_store: StateStore
    if settings.db is not None:
        state_store, folder = SqliteStateStore(settings.db), settings.db.with_name(f"{settings.db.name}.clips")
    else:
        state_store, folder = MemoryStateStore(), Path(_shared_clip_folder().name)
    stack.push_async_callback(state_store.close)
    clips = ClipLibrary(settings, folder)
    stack.push_async_callback(clips.close)
    return Engine(settings, state_store, clips)


@cache
def _shared_clip_folder() -> tempfile.TemporaryDirectory[str]:
    """Return the folder of clips for emulators without `db`, kept until the process ends.

    All of them share it: the same specification gives the same bytes.
    """
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
    main_loops = [asyncio.create_task(server.main_loop()) for server in servers]

    async def stop() -> None:
        for task in main_loops:
            task.cancel()
        await asyncio.gather(*main_loops, return_exceptions=True)
        pairs = zip(servers, apps, strict=True)
        await asyncio.gather(*(server.shutdown(sockets=[bound]) for server, (_, bound) in pairs))

    stack.push_async_callback(stop)


class _PromptServer(uvicorn.Server):
    """Server that ends with its last connection; uvicorn's own waits for a tenth of a second, connections or not."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listeners and idle connections at once, and wait for requests in progress only."""
        for listener in self.servers:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        # A connection that is closed is no longer counted after one round of the event loop.
        await asyncio.sleep(0)
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
        for bound in sockets or []:
            bound.close()


async def _start_server(app: Starlette, bound: socket.socket) -> uvicorn.Server:
    """Start a uvicorn server without its signal handlers, which belong to the program that embeds the emulator."""
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
    server = _PromptServer(config)
    # `Server.serve` would do this, but it also installs signal handlers.
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
def _stop_on_signal(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` on SIGINT and SIGTERM, where this thread can receive signals."""
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
