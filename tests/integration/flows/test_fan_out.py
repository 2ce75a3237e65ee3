"""A large project split over the pool: one parent, its parts, one report; nothing twice when the parent is repeated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
)
from prefect.client.schemas.filters import FlowRunFilterParentFlowRunId as ParentFilter
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import arun_deployment
from prefect.states import AwaitingRetry, Cancelling, Completed, Crashed

from prefect_video import Project
from prefect_video.emulator import Emulator
from prefect_video.errors import GenerationCancelled
from prefect_video.flows.parts import Parts, cancel_parts, read_part
from prefect_video.pipeline import split_project
from tests.support.prefect_workers import deploy_projects, find_descendants, kill_all, run_worker

PATIENCE_SECONDS = 300


@pytest.fixture
async def client(prefect_api: str) -> AsyncIterator[PrefectClient]:
    async with get_client() as opened:
        yield opened


async def find_parts(client: PrefectClient, parent: UUID) -> list[FlowRun]:
    """Return the runs of a run's parts, in order."""
    wanted = FlowRunFilter(parent_flow_run_id=ParentFilter(any_=[parent]))
    return sorted(await client.read_flow_runs(flow_run_filter=wanted), key=lambda run: run.name)


async def wait_for_states(client: PrefectClient, parent: UUID, *states: str, of_parent: str) -> list[FlowRun]:
    """Wait until a run and its parts have these states; return the parts."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        run, parts = await client.read_flow_run(parent), await find_parts(client, parent)
        if run.state_name == of_parent and [part.state_name for part in parts] == list(states):
            return parts
        await asyncio.sleep(0.2)
    pytest.fail(f"after {PATIENCE_SECONDS} s: {run.state}, {[part.state for part in parts]}")


async def retry(client: PrefectClient, run_id: UUID) -> None:
    """Run a crashed run again; the worker reports the crash twice, and would undo a state that is set in between."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await client.read_flow_run(run_id)).state_name not in ("Pending", "Running"):
            if (await client.read_flow_run(run_id)).state_name == "Crashed":
                await client.set_flow_run_state(run_id, AwaitingRetry(), force=True)
            await asyncio.sleep(1)


async def start_project(deployment: str, name: str, *, shots: int, by_run: bool = False) -> UUID:
    """Start the run of a project that is split over two runs, as the project says or, by its parameter, the run."""
    project: dict[str, Any] = {
        "project": name,
        "defaults": {"duration": 1, "resolution": "480p"},
        "budget_usd": shots * 0.3,
        "shots": [{"id": f"s{number}", "prompt": f"{name} {number}"} for number in range(shots)],
    }
    parameters: dict[str, Any] = {"project": project}
    (parameters if by_run else project)["fan_out"] = 2
    return (await arun_deployment(deployment, parameters=parameters, timeout=0, as_subflow=False)).id


@pytest.mark.timeout(1200)
async def test_a_parent_that_is_repeated_starts_no_part_twice_and_a_cancelled_one_cancels_them(
    client: PrefectClient, prefect_api: str, session: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = await deploy_projects(client, "fan-out", "parts")
    emulator.change_speed(0.001)
    with run_worker(prefect_api, "parts", session / "worker", limit=3) as worker:
        parent = await start_project(deployment, "long-film", shots=5)
        parent_process = await asyncio.to_thread(worker.wait_for_flow_process)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while emulator.usage()["accepted"] < 5:
                await asyncio.sleep(0.1)
        kill_all([parent_process, *find_descendants(parent_process)])
        before = await wait_for_states(client, parent, "Running", "Running", of_parent="Crashed")
        await retry(client, parent)
        emulator.change_speed(200)
        parts = await wait_for_states(client, parent, "Completed", "Completed", of_parent="Completed")
        assert [part.id for part in parts] == [part.id for part in before]
        assert [part.name for part in parts] == [
            "long-film (part 1 of 2, 3 shots)",
            "long-film (part 2 of 2, 2 shots)",
        ]
        assert emulator.usage()["billed"] == 5
        tables = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[parent]))
        )
        descriptions = [table.description or "" for table in tables if table.type == "table"]
        assert ["long-film: 5 of 5 stored (0 cached), $1.50 paid" in text for text in descriptions] == [True]
        assert (session / "videos" / "long-film" / "index.html").exists()

        emulator.change_speed(0.001)
        unwanted = await start_project(deployment, "unwanted", shots=2, by_run=True)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while emulator.usage()["accepted"] < 7:
                await asyncio.sleep(0.1)
        await client.set_flow_run_state(unwanted, Cancelling())
        await wait_for_states(client, unwanted, "Cancelled", "Cancelled", of_parent="Cancelled")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while emulator.usage()["cancelled"] < 2:
                await asyncio.sleep(0.1)
    assert emulator.usage()["billed"] == 5


@pytest.fixture
async def parent(client: PrefectClient, session: Path, monkeypatch: pytest.MonkeyPatch) -> FlowRun:
    """Start the run of a split project, which no worker takes."""
    monkeypatch.setattr("prefect_video.flows.parts._POLL_SECONDS", 0.05)
    name = uuid4().hex[:8]
    deployment = await deploy_projects(client, name, name)
    return await client.read_flow_run(await start_project(deployment, f"film-{name}", shots=4))


async def find_parts_of(client: PrefectClient, parent: FlowRun, number: int) -> dict[UUID, FlowRun]:
    """Wait until a run has started so many parts, and return them by id."""
    of_deployment = DeploymentFilter(id=DeploymentFilterId(any_=[parent.deployment_id]))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            runs = await client.read_flow_runs(deployment_filter=of_deployment)
            parts = {run.id: run for run in runs if read_part(run)}
            if len(parts) >= number:
                return parts
            await asyncio.sleep(0.05)


@asynccontextmanager
async def making(parent: FlowRun) -> AsyncIterator[asyncio.Task[None]]:
    """Have a run's parts started and awaited, until the block ends as a process does that dies."""
    assert parent.parameters is not None
    project = Project.model_validate(parent.parameters["project"])
    task = asyncio.create_task(Parts(parent, split_project(project, 2), {}).make())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_parts_are_found_again_and_one_that_has_crashed_is_followed_by_another(
    client: PrefectClient, parent: FlowRun
) -> None:
    async with making(parent):
        first = await find_parts_of(client, parent, 2)
    crashed, other = first.values()
    # What has ended is found by its idempotency key alone.
    await client.set_flow_run_state(other.id, Completed(), force=True)
    await client.set_flow_run_state(crashed.id, Crashed(), force=True)
    async with making(parent) as repeated:
        (again,) = (run for id_, run in (await find_parts_of(client, parent, 3)).items() if id_ not in first)
        assert again.name == crashed.name
        await client.set_flow_run_state(again.id, Completed(), force=True)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await repeated
    assert set(await find_parts_of(client, parent, 3)) == {*first, again.id}


async def test_cancelling_the_parent_cancels_its_parts_and_it_ends_as_cancelled(
    client: PrefectClient, parent: FlowRun
) -> None:
    async with making(parent) as task:
        parts = await find_parts_of(client, parent, 2)
        await cancel_parts(parent.id, client, list(parts.values()))
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(GenerationCancelled, match=r"part 1 of 2.*part 2 of 2"):
                await task
    assert {run.state_name for run in (await find_parts_of(client, parent, 2)).values()} == {"Cancelled"}


async def test_parts_that_no_worker_begins_are_given_up_and_not_cancelled(
    client: PrefectClient, parent: FlowRun
) -> None:
    assert parent.parameters is not None
    await Parts(
        parent, split_project(Project.model_validate(parent.parameters["project"]), 2), {}, stall_seconds=1
    ).make()
    of_deployment = DeploymentFilter(id=DeploymentFilterId(any_=[parent.deployment_id]))
    runs = await client.read_flow_runs(deployment_filter=of_deployment)
    # The hook of a cancelled run that begins late would cancel what its parent has paid for.
    assert [run.state_name for run in runs if read_part(run) == parent.id] == ["Crashed", "Crashed"]
