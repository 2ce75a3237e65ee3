"""The service and deferred runs beside a real Prefect server."""

from __future__ import annotations

import asyncio
import fnmatch
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import yaml
from prefect.events.schemas.automations import Posture
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_video.emulator import Emulator
from prefect_video.flows import collect_generations, generate_project
from prefect_video.ledger import Ledger, ReceivedEvent
from prefect_video.pipeline import run_project
from prefect_video.service import ServiceSettings, create_app, open_agent_tools
from prefect_video.service.prefect_events import build_event, open_announcer
from prefect_video.session import Session
from tests.support.records import a_generation, submit_one
from tests.support.service_fixtures import TOKEN
from tests.unit.service.test_webhooks import project


def a_received_event() -> ReceivedEvent:
    return ReceivedEvent(
        account="sora-1",
        event_id=f"evt-{uuid.uuid4()}",
        generation_id="gen-1",
        type="generation.completed",
        received_at=datetime.now(UTC),
    )


async def test_an_end_is_an_build_event_prefect(prefect_api: str, ledger: Ledger) -> None:
    job = await submit_one(ledger)
    job = await ledger.jobs.record_completed(job.id, a_generation("gen-1"))
    announce = await open_announcer()
    assert announce is not None
    event = a_received_event()
    for _ in range(2):
        announce(job, event)
    await asyncio.to_thread(EventsWorker.instance().drain)
    query = {
        "filter": {
            "event": {"name": ["video.generation.completed"]},
            "resource": {"id": [f"prefect-video.generation.{job.id}"]},
        }
    }
    async with httpx.AsyncClient(base_url=prefect_api) as client, asyncio.timeout(300):
        while not (found := (await client.post("/events/filter", json=query)).json()["events"]):
            await asyncio.sleep(0.2)
    assert [line["id"] for line in found] == [str(build_event(job, event)["id"])], "emitted twice, it is one event"
    assert found[0]["payload"]["job_id"] == job.id
    related = {resource["prefect.resource.id"] for resource in found[0]["related"]}
    assert {"prefect-video.project.coffee-ad", "prefect-video.account.sora-1"} <= related


@asynccontextmanager
async def open_api_session(settings: ServiceSettings) -> AsyncIterator[Session]:
    """Open the session of a service that `serve` runs."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app.state.sessions.sessions[0]


@asynccontextmanager
async def open_agent_session(settings: ServiceSettings) -> AsyncIterator[Session]:
    """Open the session of a service that `mcp` runs."""
    async with open_agent_tools(settings, lambda: TOKEN) as tools:
        yield tools.runtime.sessions.sessions[0]


@pytest.mark.parametrize("open_service_session", [open_api_session, open_agent_session])
async def test_a_service_announces_a_budget_that_is_nearly_used_up(
    prefect_api: str,
    environment: Path,
    provider: Emulator,
    open_service_session: Callable[[ServiceSettings], AbstractAsyncContextManager[Session]],
) -> None:
    name = open_service_session.__name__
    film = project("one").model_copy(update={"name": name, "budget_videos": 1})
    async with open_service_session(ServiceSettings.from_environment(api_token=TOKEN)) as session:
        await run_project(session, film)
    await asyncio.to_thread(EventsWorker.instance().drain)
    query = {
        "filter": {
            "event": {"name": ["video.budget.nearly-used"]},
            "resource": {"id": [f"prefect-video.budget.project.{name}"]},
        }
    }
    async with httpx.AsyncClient(base_url=prefect_api) as client, asyncio.timeout(300):
        while not (found := (await client.post("/events/filter", json=query)).json()["events"]):
            await asyncio.sleep(0.2)
    assert found[0]["resource"]["prefect-video.environment"] == "production"


async def test_the_trigger_fits_what_is_announced(ledger: Ledger) -> None:
    content = yaml.safe_load((Path(__file__).parents[3] / "prefect.yaml").read_text())
    (declared,) = (d["triggers"] for d in content["deployments"] if "triggers" in d)
    (written,) = declared
    assert set(written) <= set(DeploymentEventTrigger.model_fields)
    trigger = DeploymentEventTrigger.model_validate(written)
    resource = build_event(await submit_one(ledger), a_received_event())["resource"]
    for label, pattern in written["match"].items():
        assert fnmatch.fnmatch(resource[label], pattern)
    # One run for many events of a project: the wait begins again with each, for each project by itself.
    assert trigger.posture is Posture.Proactive
    assert (
        trigger.after == trigger.expect == {f"video.generation.{end}" for end in ("completed", "failed", "cancelled")}
    )
    assert trigger.for_each == {"prefect-video.project"} <= set(resource)
    assert trigger.within.total_seconds() >= 10


async def test_without_an_api_nothing_is_announced() -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert await open_announcer() is None


async def test_a_deferred_flow_is_finished_by_the_sweep(
    prefect_api: str, environment: Path, provider: Emulator
) -> None:
    report = await generate_project(project("one", "two"), wait=False)
    assert {shot.status for shot in report.shots} <= {"in_flight", "stored"}
    provider.wait_until_idle()
    await collect_generations()
    again = await generate_project(project("one", "two"), wait=False)
    assert [(shot.status, shot.cached) for shot in again.shots] == [("stored", True)] * 2
    assert provider.usage()["billed"] == 2
