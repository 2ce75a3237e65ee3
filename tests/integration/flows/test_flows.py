"""The flows on a real Prefect server, a real provider, a real ledger and store."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow, tags
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.states import State
from sqlalchemy import select, update

from prefect_video import Asset, BudgetExceeded, InvalidInput, Project, Shot
from prefect_video.emulator import Emulator
from prefect_video.errors import ProjectFailed
from prefect_video.flows import collect_generations, generate_project, generate_shot, spend_report
from prefect_video.gallery import load_manifest
from prefect_video.ledger import Ledger, tables
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.session import SessionRef, open_session
from prefect_video.tasks import agenerate_video, generate_video
from tests.support.task_runs import await_task_runs


def project(*prompts: str, **given: object) -> Project:
    shots = [{"id": f"s{n}", "prompt": prompt} for n, prompt in enumerate(prompts)]
    defaults = {"duration": 1, "resolution": "480p"}
    return Project.model_validate({"project": "Film.1", "defaults": defaults, "shots": shots, **given})


async def run_of(state: State[object], client: PrefectClient) -> tuple[str, dict[str, object], list[str]]:
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    run = await client.read_flow_run(run_id)
    artifacts = await client.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(str(run_id))]))
    )
    return run.name, run.parameters, sorted(str(artifact.type) for artifact in artifacts)


async def test_a_project_is_made_once_and_shown(session: Path, emulator: Emulator) -> None:
    state = await generate_project(project("one", "two", "three"), return_state=True)
    report = await state.result()  # type: ignore[misc]
    assert isinstance(report, ProjectReport)
    assert [(shot.status, shot.cached) for shot in report.shots] == [("stored", False)] * 3
    assert all(Path(str(shot.uri).removeprefix("file://")).stat().st_size == shot.bytes for shot in report.shots)
    async with get_client() as client:
        name, parameters, artifacts = await run_of(state, client)
    assert name == "Film.1 (3 shots)"
    assert artifacts == ["markdown", "progress", "table"]
    assert emulator.key not in json.dumps(parameters, default=str)
    expected = {"find Film.1", "screen Film.1"} | {
        f"{step} s{n}" for n in range(3) for step in ("submit", "poll", "download", "store")
    }
    tasks = await await_task_runs(state.state_details.flow_run_id, len(expected))
    assert {task.name for task in tasks} == expected

    again = await generate_project(project("one", "two", "three"))
    assert [shot.cached for shot in again.shots] == [True] * 3
    assert again.cost_usd == 0
    assert emulator.usage()["billed"] == 3


async def test_the_steps_of_a_shot_are_a_chain_in_prefect(session: Path, emulator: Emulator) -> None:
    state = await generate_project(project("one", "two"), return_state=True)
    before = await read_edges(state, number=10)
    chain = ("submit", "poll", "download", "store")
    expected = {f"{step} {shot}": {f"{former} {shot}"} for shot in ("s0", "s1") for former, step in pairwise(chain)}
    assert before == {"find Film.1": set(), "screen Film.1": set(), "submit s0": set(), "submit s1": set(), **expected}


async def read_edges(state: State[object], number: int) -> dict[str, set[str]]:
    """Return the tasks of a run by name, so many as expected, with those that each follows in Prefect's graph."""
    tasks = await await_task_runs(state.state_details.flow_run_id, number)
    names = {task.id: task.name for task in tasks}
    return {
        task.name: {names[given.id] for inputs in task.task_inputs.values() for given in inputs if hasattr(given, "id")}
        for task in tasks
    }


async def test_shots_follow_what_they_need_in_prefects_graph(session: Path, emulator: Emulator) -> None:
    shots = [
        {"id": "a", "prompt": "a"},
        {"id": "b", "prompt": "b"},
        {"id": "c", "prompt": "c", "continue_from": "a", "depends_on": ["b"]},
    ]
    state = await generate_project(project(shots=shots), return_state=True)
    before = await read_edges(state, number=14)
    assert before["submit c"] == {"store a", "store b"}
    assert len([name for name in before if name.startswith("find")]) == 1
    assert emulator.usage()["billed"] == 3


async def test_a_failed_shot_fails_alone_and_the_run_says_so(session: Path, emulator: Emulator) -> None:
    state = await generate_project(project("one", "[policy] two", "[fail] three"), return_state=True)
    assert state.is_failed()
    assert "1 of 3 stored" in str(state.message)
    with pytest.raises(ProjectFailed) as caught:
        await state.result()  # type: ignore[misc]
    statuses = {shot.id: (shot.status, shot.error or "") for shot in caught.value.report.shots}
    assert statuses["s0"] == ("stored", "")
    assert statuses["s1"][0] == "failed"
    assert "policy" in statuses["s1"][1]
    assert "s2" in statuses["s2"][1]
    assert emulator.usage()["billed"] == 1


async def test_over_budget_sends_nothing(session: Path, emulator: Emulator) -> None:
    with pytest.raises(BudgetExceeded, match=r"Film\.1.*0\.50"):
        await generate_project(project("one", "two", budget_usd="0.50"))
    assert emulator.usage()["submitted"] == 0


async def test_settings_that_cannot_be_meant_send_nothing(session: Path, emulator: Emulator) -> None:
    for wrong in (
        {"provider": "unknown"},
        {"provider": "sora-credentials/none"},
        {"store": "ftp://x"},
        {"store": "video-store/none"},
        {"ledger": "postgresql://u:p@h/d"},
        {"max_in_flight": 0},
    ):
        with pytest.raises(InvalidInput):
            await generate_project(project("one"), **wrong)  # type: ignore[arg-type]
    assert emulator.usage()["submitted"] == 0


async def test_dependencies_come_first_and_a_failed_one_stops_what_needs_it(session: Path, emulator: Emulator) -> None:
    needs = Project.model_validate(
        {
            "project": "chain",
            "defaults": {"duration": 1, "resolution": "480p"},
            "shots": [
                {"id": "c", "prompt": "c", "depends_on": ["b"]},
                {"id": "b", "prompt": "[policy] b", "depends_on": ["a"]},
                {"id": "a", "prompt": "a"},
            ],
        }
    )
    with pytest.raises(ProjectFailed) as caught:
        await generate_project(needs)
    assert [shot.status for shot in caught.value.report.shots] == ["skipped", "failed", "stored"]
    assert set(emulator.usage()["by_prompt"]) == {"a", "[policy] b"}
    async with await Ledger.open() as ledger:
        assert await ledger.jobs.unfinished() == []


async def test_one_shot_and_its_takes(session: Path, emulator: Emulator) -> None:
    shot = Shot(id="a", prompt="a cat", duration=1, resolution="480p", takes=2)
    asset = await generate_shot(shot, project="takes")
    assert isinstance(asset, Asset)
    assert asset.take == 1
    assert emulator.usage()["by_prompt"]["a cat"]["billed"] == 2
    other = shot.model_copy(update={"id": "b", "prompt": "a dog", "takes": 1})
    await generate_shot(other, project="takes")
    async with await open_session(SessionRef.from_names("emulator")) as opened:
        manifest = await load_manifest(opened.store, "takes")
    assert manifest is not None
    assert [(shot.id, shot.in_project, len(shot.takes)) for shot in manifest.shots] == [("a", True, 2), ("b", True, 1)]
    assert {take.status for take in manifest.takes} == {"stored"}


async def test_the_books_and_an_empty_sweep(session: Path, emulator: Emulator) -> None:
    await generate_project(project("one"))
    lines = await spend_report(by="project")
    assert [(line.key, line.videos, str(line.spent_usd.normalize())) for line in lines] == [("Film.1", 1, "0.3")]
    assert await spend_report(by="project", since=datetime.fromisoformat("2020-01-01")) == lines
    assert await collect_generations() == []


async def test_a_second_call_in_a_flow_is_cached_by_prefect(session: Path, emulator: Emulator) -> None:
    shot = Shot(id="cached", prompt="once only", duration=1, resolution="480p")

    @flow
    async def embedding() -> list[State[Asset]]:
        first: State[Asset] = await agenerate_video(shot, return_state=True)  # type: ignore[call-overload]
        other_name = shot.model_copy(update={"metadata": {"x": "y"}})
        return [first, await agenerate_video(other_name, return_state=True)]  # type: ignore[call-overload]

    first, second = await embedding()
    assert (first.name, second.name) == ("Completed", "Cached")
    assert await first.aresult() == await second.aresult()
    assert emulator.usage()["billed"] == 1


def test_the_sync_call_in_a_sync_flow(session: Path, emulator: Emulator) -> None:
    @flow
    def embedding() -> Asset:
        return generate_video(Shot(id="sync", prompt="sync", duration=1, resolution="480p"))

    assert embedding().shot_id == "sync"
    assert emulator.usage()["billed"] == 1


async def test_the_sync_call_inside_a_running_loop(session: Path, emulator: Emulator) -> None:
    asset = generate_video.fn(Shot(id="loop", prompt="loop", duration=1, resolution="480p"))
    assert asset.shot_id == "loop"


async def test_a_named_concurrency_limit_is_held_and_must_exist(
    session: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_VIDEO_CONCURRENCY_LIMIT", "one-at-a-time")
    with pytest.raises(ProjectFailed, match="one-at-a-time"):
        await generate_project(project("one", "two"))
    assert emulator.usage()["submitted"] == 0
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name("one-at-a-time", limit=1)
    await generate_project(project("one", "two"))
    assert emulator.usage()["peak_concurrency"] == 1


async def test_a_task_run_with_tags_does_not_begin_before_its_shot_has_a_slot(
    session: Path, emulator: Emulator
) -> None:
    """Their limit could leave none for the poll of the shot that has the slot, and both would wait without end."""
    with tags("paid"):
        state = await generate_project(project("one", "two"), max_in_flight=1, return_state=True)
    assert emulator.usage()["billed"] == 2
    runs = {run.name: run for run in await await_task_runs(state.state_details.flow_run_id, 10)}
    sent_at, ended_at = runs["submit s1"].start_time, runs["poll s0"].expected_start_time
    assert sent_at is not None
    assert ended_at is not None
    assert sent_at > ended_at


async def test_all_tasks_of_a_run_share_one_session(session: Path, emulator: Emulator) -> None:
    await generate_project(project("one", "two"))
    async with await Ledger.open() as ledger, ledger._database.reading() as connection:
        # Every ledger that is opened signs in, and signs off when it is closed.
        owners = (await connection.execute(select(tables.owners.c.id))).scalars().all()
    assert owners == [ledger.owner_id]


async def test_trouble_unusual_volume_an_old_key_and_a_nearly_used_budget_are_events(
    session: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_VIDEO_ANOMALOUS_PER_HOUR", "1")
    monkeypatch.setenv("PREFECT_VIDEO_BREAKER_FAILURES", "1")
    monkeypatch.setenv("PREFECT_VIDEO_BREAKER_SECONDS", "0.5")
    emulator.add_fault(operation="submit", kind="error_before", after=1, times=1)
    await generate_project(project("one", "two", budget_videos=2), max_in_flight=1)
    async with await Ledger.open() as ledger, ledger._database.writing() as connection:
        quarter = datetime.now(UTC) - timedelta(days=90)
        await connection.execute(update(tables.account_keys).values(first_used_at=quarter))
    await generate_project(project("three"))
    wanted = {
        "video.account.anomaly",
        "video.account.key.old",
        "video.account.breaker.open",
        "video.account.breaker.closed",
        "video.budget.nearly-used",
    }
    async with get_client() as client, asyncio.timeout(300):
        while True:
            answer = await client._client.post("/events/filter", json={"filter": {"event": {"prefix": ["video."]}}})
            if wanted <= {event["event"] for event in answer.json()["events"]}:
                break
            await asyncio.sleep(0.2)
    assert emulator.usage()["billed"] == 3
