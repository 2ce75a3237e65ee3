"""Two live runs of a routed project that prefer different accounts buy one video, by the providers' usage records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from prefect_video.emulator import Emulator
from prefect_video.ledger import Job
from prefect_video.pipeline import routing
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.projects import Project
from prefect_video.session import SessionEvent
from tests.support.recovery_fixtures import postgres_server, postgres_url
from tests.support.routing import AUTO, RoutingHarness, open_routing, project
from tests.support.routing_fixtures import emulators

__all__ = ["emulators", "postgres_server", "postgres_url"]

FILM = project({}, {}, **AUTO)


@pytest.fixture(params=["sqlite", "postgresql"])
async def runs(
    request: pytest.FixtureRequest, tmp_path: Path, emulators: tuple[Emulator, Emulator]
) -> AsyncIterator[tuple[RoutingHarness, RoutingHarness]]:
    """Two processes on one ledger."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    async with AsyncExitStack() as stack:
        yield (
            await stack.enter_async_context(open_routing(tmp_path, *emulators, ledger_url=url)),
            await stack.enter_async_context(open_routing(tmp_path, *emulators, ledger_url=url)),
        )


@asynccontextmanager
async def looking_up_first(monkeypatch: pytest.MonkeyPatch, parties: int) -> AsyncIterator[asyncio.Event]:
    """Let no run claim before all have looked up what exists; the event is set when the first one has."""
    everyone, first = asyncio.Barrier(parties), asyncio.Event()
    real = routing.load_existing

    async def look_up(*arguments: Any) -> None:
        await real(*arguments)
        first.set()
        await everyone.wait()

    monkeypatch.setattr(routing, "load_existing", look_up)
    yield first


async def set_health(routing: RoutingHarness, *, healthy: bool) -> None:
    accounts, cheap = routing.cheap.ledger.accounts, routing.cheap.provider.account.id
    if healthy:
        await accounts.record_success(cheap)
    else:
        await accounts.record_failure(cheap, threshold=1, open_seconds=60)


def outcomes(report: ProjectReport) -> list[tuple[str, str]]:
    return [(shot.status, str(shot.asset and shot.asset.provider)) for shot in report.shots]


async def test_runs_that_see_different_health_reserve_at_one_account(
    runs: tuple[RoutingHarness, RoutingHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = runs
    async with looking_up_first(monkeypatch, parties=2) as first, asyncio.TaskGroup() as group:
        await set_health(left, healthy=False)
        first_run = group.create_task(left.make(FILM))
        await first.wait()
        await set_health(left, healthy=True)
        second_run = group.create_task(right.make(FILM))
    accepted = left.accepted
    # Whichever run has claimed first decides on the account, and the other one joins it.
    assert sorted(accepted) == [0, 2]
    name = "cheap" if accepted[1] else "dear"
    assert outcomes(first_run.result()) == outcomes(second_run.result()) == [("stored", name)] * 2
    assert left.billed == accepted


async def test_a_run_that_has_joined_follows_the_shot_to_the_next_account(
    runs: tuple[RoutingHarness, RoutingHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = runs
    left.at_cheap.add_fault(operation="submit", kind="error_before", times=1)
    recovered: list[asyncio.Task[None]] = []

    def close_breaker(event: SessionEvent, job: Job) -> None:
        if event is SessionEvent.CLAIMED and job.provider == "dear":
            # From now on the first account would serve the other run, which is waiting for it.
            recovered.append(asyncio.create_task(set_health(left, healthy=True)))

    left.observe(close_breaker)
    right.observe(close_breaker)
    single: Project = project({}, **AUTO)
    async with looking_up_first(monkeypatch, parties=2), asyncio.TaskGroup() as group:
        first_run = group.create_task(left.make(single))
        second_run = group.create_task(right.make(single))
    await asyncio.gather(*recovered)
    assert sum(left.accepted) == sum(left.billed) == 1
    assert outcomes(first_run.result()) == outcomes(second_run.result())
    assert first_run.result().shots[0].status == "stored"
    assert await left.dear.ledger.jobs.unfinished() == []
