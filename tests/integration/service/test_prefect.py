"""The service and deferred runs beside a real Prefect server."""

from __future__ import annotations

import asyncio
import fnmatch
import uuid
from datetime import UTC, datetime
from pathlib import Path

import httpx
import yaml
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_video.emulator import Emulator
from prefect_video.flows import collect_generations, generate_project
from prefect_video.ledger import Ledger, ReceivedEvent
from prefect_video.service.prefect_events import event_of, open_announcer
from tests.support.records import a_generation, submit_one
from tests.unit.service.test_webhooks import project


def a_received_event() -> ReceivedEvent:
    return ReceivedEvent(
        account="sora-1",
        event_id=f"evt-{uuid.uuid4()}",
        generation_id="gen-1",
        type="generation.completed",
        received_at=datetime.now(UTC),
    )


async def test_an_end_is_an_event_of_prefect(prefect_api: str, ledger: Ledger) -> None:
    job = await submit_one(ledger)
    job = await ledger.jobs.record_completed(job.id, a_generation("gen-1"))
    announce = await open_announcer()
    assert announce is not None
    told = a_received_event()
    for _ in range(2):
        announce(job, told)
    await asyncio.to_thread(EventsWorker.instance().drain)
    wanted = {
        "filter": {
            "event": {"name": ["video.generation.completed"]},
            "resource": {"id": [f"prefect-video.generation.{job.id}"]},
        }
    }
    async with httpx.AsyncClient(base_url=prefect_api) as client, asyncio.timeout(30):
        while not (found := (await client.post("/events/filter", json=wanted)).json()["events"]):
            await asyncio.sleep(0.2)
    assert [event["id"] for event in found] == [str(event_of(job, told)["id"])], "told twice, it is one event"
    assert found[0]["payload"]["job_id"] == job.id
    related = {resource["prefect.resource.id"] for resource in found[0]["related"]}
    assert {"prefect-video.project.coffee-ad", "prefect-video.account.sora-1"} <= related


async def test_the_example_trigger_fits_what_is_announced(ledger: Ledger) -> None:
    content = yaml.safe_load((Path(__file__).parents[3] / "prefect.yaml").read_text())
    (declared,) = (d["triggers"] for d in content["deployments"] if "triggers" in d)
    (written,) = declared
    assert set(written) <= set(DeploymentEventTrigger.model_fields)
    trigger = DeploymentEventTrigger.model_validate(written)
    assert trigger.enabled is False
    announced = event_of(await submit_one(ledger), a_received_event())
    assert fnmatch.fnmatch(announced["resource"]["prefect.resource.id"], written["match"]["prefect.resource.id"])
    assert trigger.expect == {"video.generation.completed"}


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
