"""Fixtures of sessions over the emulator, for tests of waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.ledger import Job, Ledger
from prefect_video.pipeline.steps import build_project_job_requests, claim_shots, submit
from prefect_video.projects import Project
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.session import Session, Settings
from prefect_video.shots import Shot
from prefect_video.storage import open_store
from tests.support.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]

SessionOpener = Callable[..., AbstractAsyncContextManager[Session]]
MakeEmulator = Callable[..., Emulator]


@pytest.fixture
def open_session(tmp_path: Path) -> SessionOpener:
    """Return a factory: `open_session(emulator, on_deadline="hold")`; all sessions of a test share one ledger."""

    @asynccontextmanager
    async def open_with(emulator: Emulator, **settings: Any) -> AsyncIterator[Session]:
        provider = SoraProvider(
            api_key=emulator.key,
            endpoint=emulator.endpoint,
            plan="emulator",
            name="emulator",
            webhook_secrets=[emulator.webhook_secret],
        )
        speed = emulator.settings.speed
        provider.capabilities = replace(
            provider.capabilities,
            concurrency=emulator.settings.capacity,
            seconds_per_video_second=(6 / speed, 12 / speed),
        )
        session = Session(
            provider=provider,
            ledger=await Ledger.open(str(tmp_path / "ledger.db")),
            store=open_store((tmp_path / "store").as_uri()),
            store_name=(tmp_path / "store").as_uri(),
            settings=Settings(spool=tmp_path / "spool", **settings),
        )
        async with session:
            yield session

    return open_with


@pytest.fixture
def crowded() -> Callable[..., Emulator]:
    """Return a factory of emulators with a large capacity, whose clips need no drawing."""

    def make(**settings: Any) -> Emulator:
        values = {"port": 0, "speed": 20.0, "capacity": 50, "render": "plate", **settings}
        return Emulator(EmulatorSettings(**values))

    return make


async def submitted(session: Session, count: int) -> list[Job]:
    """Submit a number of shots, and return their jobs."""
    shots = tuple(
        Shot(id=f"shot-{number}", prompt=f"a cat, scene {number}", duration=2, resolution="480p")
        for number in range(count)
    )
    job_requests = await build_project_job_requests(session, Project(name="film", shots=shots))
    claims = await claim_shots(session, job_requests, budgets=(), partial=False)
    return [await submit(session, claim.job) for claim in claims if claim.job]
