"""`serve --deployment`: what clients request is made by the workers of a deployment of a real Prefect server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterIdempotencyKey,
)
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed

from prefect_video.emulator import Emulator
from prefect_video.flows import generate_project
from prefect_video.projects import Project, as_parameter
from tests.support.prefect_workers import deploy_projects, run_worker
from tests.support.service_fixtures import Service, run_service

POOL = "requests"
SHOT = {"duration": 1, "resolution": "480p"}
PROJECT = {
    "project": "film",
    "defaults": {**SHOT, "duration": 2},
    "shots": [{"id": "long", "prompt": "long"}, {"id": "short", "prompt": "short", "duration": 1}],
}
PATIENCE_SECONDS = 300


@pytest.fixture
async def client(prefect_api: str) -> AsyncIterator[PrefectClient]:
    async with get_client() as opened:
        yield opened


async def runs_of(client: PrefectClient, key: str) -> list[FlowRun]:
    """Return the flow runs of a request, in order."""
    wanted = FlowRunFilterIdempotencyKey(any_=[f"prefect-video-{key}", f"prefect-video-{key}-2"])
    runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=wanted))
    return sorted(runs, key=lambda run: run.idempotency_key or "")


async def wait_for_runs(client: PrefectClient, key: str, *states: str) -> list[FlowRun]:
    """Wait until the flow runs of a request have these states."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            runs = await runs_of(client, key)
            if [run.state_name for run in runs] == list(states):
                return runs
            await asyncio.sleep(0.1)


async def wait_for_end(service: Service, path: str) -> dict[str, Any]:
    """Wait until a job or a project has ended, and return it as the API shows it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found: dict[str, Any] = (await service.client.get(path)).json()
            if found["status"] in ("completed", "failed", "cancelled"):
                return found
            await asyncio.sleep(0.1)


async def read_video(service: Service, job: dict[str, Any]) -> bytes:
    """Follow the link of a job that is stored, without a token."""
    url = (await service.client.get(f"/v1/jobs/{job['job_id']}")).json()["url"]
    answer = await service.client.get(url, headers={"Authorization": ""})
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.mark.timeout(1200)
async def test_requests_go_through_queue_and_workers_and_survive_restarts_and_kills(
    client: PrefectClient, prefect_api: str, environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    settings = {"deployment": await deploy_projects(client, "requests", POOL), "sweep_seconds": 0.5}
    async with run_service(**settings) as service:
        killed = (await service.client.post("/v1/jobs", json={"prompt": "killed", **SHOT})).json()
        unwanted = (await service.client.post("/v1/jobs", json={"prompt": "unwanted", **SHOT})).json()
        film = (await service.client.post("/v1/projects", json=PROJECT)).json()
        for request in (killed["job_id"], unwanted["job_id"], film["id"]):
            await wait_for_runs(client, request, "Scheduled")
        cancelled = await service.client.post(f"/v1/jobs/{unwanted['job_id']}/cancel")
        assert cancelled.status_code == 200, cancelled.text
        await wait_for_runs(client, unwanted["job_id"], "Cancelled")
    assert provider.usage()["submitted"] == 0, "the service sends nothing by itself"

    # The workers' webhooks go to the service, which is not there yet: what is sent before waits at its socket.
    port_socket = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("PREFECT_VIDEO_WEBHOOK_URL", f"http://127.0.0.1:{port_socket.getsockname()[1]}")
    # Until it is slow no more, nothing ends, so that the first process dies in the middle.
    provider.change_speed(0.001)
    with run_worker(prefect_api, POOL, environment / "worker", limit=1) as worker:
        await asyncio.to_thread(worker.wait_for_flow_process)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while provider.usage()["by_prompt"].get("killed") is None:
                await asyncio.sleep(0.1)
        worker.kill_flow_processes()
        await wait_for_runs(client, killed["job_id"], "Crashed")
        provider.change_speed(200)
        async with run_service(port_socket, **settings) as service:
            made = [await wait_for_end(service, f"/v1/jobs/{killed['job_id']}")]
            project = await wait_for_end(service, f"/v1/projects/{film['id']}")
            made += project["jobs"]
            assert [job["status"] for job in made] == ["completed"] * 3, (made, worker.log.read_text())
            assert {(await read_video(service, job))[4:8] for job in made} == {b"ftyp"}
            await wait_for_runs(client, killed["job_id"], "Crashed", "Completed")
            gone = await wait_for_end(service, f"/v1/jobs/{unwanted['job_id']}")
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await service.count("prefect_video_webhooks_handled_total", outcome="completed"):
                    await asyncio.sleep(0.1)
    assert "cancelled before it was sent" in gone["error"]
    books = {prompt: (line["accepted"], line["billed_usd"]) for prompt, line in provider.usage()["by_prompt"].items()}
    assert books == {"killed": (1, "0.30"), "long": (1, "0.60"), "short": (1, "0.30")}


async def test_a_request_whose_run_has_crashed_gets_another_one_and_a_cancelled_one_loses_its_own(
    client: PrefectClient, prefect_api: str, environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    settings = {"deployment": await deploy_projects(client, "crashes", "crashes"), "sweep_seconds": 0.1}
    async with run_service(**settings) as service:
        wanted = (await service.client.post("/v1/jobs", json={"prompt": "wanted", **SHOT})).json()["job_id"]
        unwanted = (await service.client.post("/v1/jobs", json={"prompt": "unwanted", **SHOT})).json()["job_id"]
        (crashed,) = await wait_for_runs(client, wanted, "Scheduled")
        await wait_for_runs(client, unwanted, "Scheduled")
        assert (await service.client.post(f"/v1/jobs/{unwanted}/cancel")).status_code == 200
        await wait_for_runs(client, unwanted, "Cancelled")
    await client.set_flow_run_state(crashed.id, Crashed(), force=True)
    assert provider.usage()["submitted"] == 0, "the service sends nothing by itself"

    async with run_service(**settings) as service:
        _, again = await wait_for_runs(client, wanted, "Crashed", "Scheduled")
        assert again.parameters == crashed.parameters
        # As a worker makes it, in this process.
        await generate_project(**again.parameters)
        made = await wait_for_end(service, f"/v1/jobs/{wanted}")
        assert (made["status"], (await read_video(service, made))[4:8]) == ("completed", b"ftyp")
        assert "cancelled before it was sent" in (await wait_for_end(service, f"/v1/jobs/{unwanted}"))["error"]
    assert {prompt: line["accepted"] for prompt, line in provider.usage()["by_prompt"].items()} == {"wanted": 1}


def test_a_project_is_the_same_as_a_parameter() -> None:
    project = Project.model_validate(
        {**PROJECT, "approve": True, "shots": [*PROJECT["shots"], {"id": "c", "prompt": "c", "approve": False}]}
    )
    assert Project.model_validate(as_parameter(project)).shots == project.shots
