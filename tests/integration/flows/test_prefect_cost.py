"""What a shot costs Prefect, counted: task runs, and requests to its API."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.base import PrefectHttpxAsyncClient

from prefect_video import Project
from prefect_video.emulator import Emulator
from prefect_video.flows import generate_project
from tests.support.task_runs import await_task_runs

ANY_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def film(count: int) -> Project:
    return Project.model_validate(
        {
            "project": f"cost-{count}",
            "defaults": {"duration": 1, "resolution": "480p"},
            "shots": [{"id": f"s{number}", "prompt": f"view {number} of {count}"} for number in range(count)],
        }
    )


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Count the requests to Prefect's API by method and path, ids left out; all are sent."""
    counted: Counter[tuple[str, str]] = Counter()
    send = PrefectHttpxAsyncClient.send

    async def count_and_send(
        client: PrefectHttpxAsyncClient, request: httpx.Request, *args: Any, **named: Any
    ) -> httpx.Response:
        counted[request.method, ANY_ID.sub("ID", request.url.path)] += 1
        return await send(client, request, *args, **named)

    monkeypatch.setattr(PrefectHttpxAsyncClient, "send", count_and_send)
    return counted


async def count_task_runs(flow_run_id: Any, expected: int) -> Counter[str]:
    """Count a run's task runs by the first word of their names, once the server has recorded as many as expected."""
    return Counter(run.name.split()[0] for run in await await_task_runs(flow_run_id, expected))


async def test_a_shot_costs_four_task_runs_and_no_request_of_its_own(
    session: Path, emulator: Emulator, requests: Counter[tuple[str, str]]
) -> None:
    shots = 12
    state = await generate_project(film(shots), return_state=True)
    assert state.is_completed()
    # Before the look at the task runs, which sends requests too.
    sent = Counter(requests)
    task_runs = await count_task_runs(state.state_details.flow_run_id, 4 * shots + 2)
    steps = ("submit", "poll", "download", "store")
    assert task_runs == {"find": 1, "screen": 1, **dict.fromkeys(steps, shots)}

    assert sent["POST", "/api/artifacts/"] == 3, "progress, table, links"
    # The progress is rewritten at most once a second, whatever ends; the log is sent in batches, by size and time.
    by_time = {("PATCH", "/api/artifacts/ID"), ("POST", "/api/logs/")}
    repeated = {call: times for call, times in sent.items() if times >= shots and call not in by_time}
    assert repeated == {}, "a request for each shot"


async def test_a_project_that_is_stored_screens_and_sends_nothing(
    session: Path, emulator: Emulator, requests: Counter[tuple[str, str]]
) -> None:
    await generate_project(film(3))
    state = await generate_project(film(3), return_state=True)
    assert await count_task_runs(state.state_details.flow_run_id, 1) == {"find": 1}
