"""Fixtures of the service: the service on a port, a provider that posts to it, and ledgers on both databases."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from prefect_video._tls import trusted_certificates
from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.ledger import Job, Ledger, ReceivedEvent
from prefect_video.polling.poller import Poller
from prefect_video.polling.schedule import PollSchedule
from prefect_video.service import ServiceSettings, build_server_config, create_app, limited_logs
from prefect_video.session import Session, SessionRef, open_session
from tests.support.ledger_fixtures import ledger, other, sqlite_url, url
from tests.support.postgres import postgres_server, postgres_url

__all__ = ["ledger", "other", "postgres_server", "postgres_url", "sqlite_url", "url"]

TOKEN = "a-token-of-the-tests"


@dataclass
class Service:
    """A running service: its address, a client with the token, and the events that it has announced."""

    url: str
    app: FastAPI
    client: httpx.AsyncClient
    announced: list[tuple[Job, ReceivedEvent]]
    server: uvicorn.Server
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_for_announcements(self, number: int) -> list[tuple[Job, ReceivedEvent]]:
        """Wait until at least so many events are announced, and return them."""
        async with asyncio.timeout(300):
            while len(self.announced) < number:
                self.changed.clear()
                await self.changed.wait()
        return self.announced

    async def count(self, name: str, **labels: str) -> float:
        """Read a counter as Prometheus does."""
        label_text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        prefix = f"{name}{{{label_text}}} " if label_text else f"{name} "
        lines = (await self.client.get("/metrics")).text.splitlines()
        return next((float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)), 0.0)


@asynccontextmanager
async def run_service(port_socket: socket.socket | None = None, **overrides: object) -> AsyncIterator[Service]:
    """Run the service on a free port in this event loop; the overrides are settings."""
    listening = port_socket or socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    announced: list[tuple[Job, ReceivedEvent]] = []
    changed = asyncio.Event()

    def announce(job: Job, event: ReceivedEvent) -> None:
        announced.append((job, event))
        changed.set()

    settings = ServiceSettings.from_environment(
        **{"api_token": TOKEN, "retry_seconds": 0.02, "attempts": 4, **overrides}
    )
    app = create_app(settings, announce=announce)
    server = uvicorn.Server(build_server_config(app, settings))
    running = asyncio.create_task(_serve(server, listening))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    # A connection is given up well before the server ends it: one that it ends just then answers nothing.
    limits = httpx.Limits(keepalive_expiry=settings.idle_seconds / 2)
    async with httpx.AsyncClient(
        base_url=address, headers=headers, verify=trusted_certificates(), timeout=30, limits=limits
    ) as client:
        while not server.started:
            if running.done():
                await running
            await asyncio.sleep(0.01)
        try:
            yield Service(address, app, client, announced, server, changed)
        finally:
            server.should_exit = True
            await running


async def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    """Run the server until it is told to exit.

    Raises:
        RuntimeError: It did not start; uvicorn's `SystemExit` would end the whole test process.
    """
    try:
        with limited_logs():
            await server.serve(sockets=[listening])
    except SystemExit as error:
        raise RuntimeError(f"the service did not start (status {error.code})") from error


@pytest.fixture
def provider() -> Iterator[Emulator]:
    """Run a fast provider that repeats rejected webhooks soon."""
    with Emulator(EmulatorSettings(port=0, speed=200, render="plate", webhook_retry_seconds=0.05)) as emulator:
        yield emulator


@pytest.fixture
def environment(provider: Emulator, tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the provider as the Sora account of this process, with SQLite and folders for the rest."""
    for name, value in {
        "SORA_API_KEY": provider.key,
        "SORA_API_ENDPOINT": provider.endpoint,
        "SORA_PLAN": "emulator",
        "SORA_WEBHOOK_SECRET": provider.webhook_secret,
        "PREFECT_VIDEO_STORE": str(tmp_path / "videos"),
        "PREFECT_VIDEO_LEDGER_URL": sqlite_url,
        "PREFECT_VIDEO_SPOOL": str(tmp_path / "spool"),
        "PREFECT_VIDEO_SETTLE_SECONDS": "0.5",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture(params=["sqlite", "postgresql"])
async def either(request: pytest.FixtureRequest, environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the service's environment with each kind of ledger."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        async with await Ledger.open(url, migrate=True):
            pass
        monkeypatch.setenv("PREFECT_VIDEO_LEDGER_URL", url)
    return environment


async def open_environment_session(webhook_url: str | None = None, *, grace_seconds: float = 3.0) -> Session:
    """Open a session of the environment that expects webhooks at a URL, and polls after a grace period."""
    session = await open_session(SessionRef.from_names())
    session.poller = Poller(
        session.provider, schedule=PollSchedule(grace_seconds=grace_seconds), pause=session.breaker.open_for_seconds
    )
    if webhook_url:
        session.settings = session.settings.model_copy(update={"webhook_url": webhook_url})
    return session
