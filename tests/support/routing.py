"""Routing harness: two accounts to choose from, each with a provider of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from prefect_video import Project
from prefect_video.emulator import Emulator
from prefect_video.ledger import Ledger
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.session import Observer, Session, Settings
from prefect_video.storage import open_store

QUICK = HttpSettings(backoff_seconds=0.01, backoff_limit_seconds=0.02, attempts=1)


@dataclass
class RoutingHarness:
    """Two accounts on one ledger and one store."""

    dear: Session
    cheap: Session
    at_dear: Emulator
    at_cheap: Emulator

    async def make(self, project: Project, **options: Any) -> ProjectReport:
        return await run_project(self.dear, project, others=[self.cheap], **options)

    def observe(self, observer: Observer | None) -> None:
        self.dear.observer = self.cheap.observer = observer

    @property
    def billed(self) -> tuple[int, int]:
        return self.at_dear.usage()["billed"], self.at_cheap.usage()["billed"]

    @property
    def accepted(self) -> tuple[int, int]:
        return self.at_dear.usage()["accepted"], self.at_cheap.usage()["accepted"]


def opened(name: str, emulator: Emulator, prices: Mapping[int, Decimal], **changes: Any) -> SoraProvider:
    provider = SoraProvider(
        api_key=emulator.key, endpoint=emulator.endpoint, plan="emulator", name=name, settings=QUICK
    )
    provider.capabilities = replace(
        provider.capabilities, usd_per_second=prices, seconds_per_video_second=(0.0, 0.1), **changes
    )
    return provider


@asynccontextmanager
async def open_routing(
    folder: Path,
    at_dear: Emulator,
    at_cheap: Emulator,
    *,
    ledger_url: str | None = None,
    cheap_provider: str = "cheap",
) -> AsyncIterator[RoutingHarness]:
    """Open both accounts, as a process does; of one provider where both have its name."""
    settings = Settings.from_environment(
        spool=folder / "spool", settle_seconds=0.2, on_open="fail", breaker_failures=1, breaker_seconds=60
    )

    async def session(provider: SoraProvider, credentials: str) -> Session:
        store = (folder / "videos").as_uri()
        return Session(
            provider=provider,
            ledger=await Ledger.open(ledger_url or str(folder / "ledger.db"), migrate=True),
            store=open_store(store),
            store_name=store,
            credentials=credentials,
            settings=settings,
        )

    dear = opened("dear", at_dear, {1: Decimal("0.50")})
    cheap = opened(cheap_provider, at_cheap, {1: Decimal("0.10")}, sizes={"480p": 5})
    async with await session(dear, "dear") as first, await session(cheap, "cheap") as second:
        yield RoutingHarness(first, second, at_dear, at_cheap)


def project(*shots: dict[str, Any], **given: Any) -> Project:
    defaults = {"duration": 1, "resolution": "480p"}
    named = [{"id": f"s{n}", "prompt": f"shot {n}", **shot} for n, shot in enumerate(shots)]
    return Project.model_validate({"project": "film", "defaults": defaults, "shots": named, **given})


AUTO: dict[str, Any] = {"provider": "auto", "accounts": ["dear", "cheap"]}
