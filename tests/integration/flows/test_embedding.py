"""Every way in which a flow of the user's calls `generate_video`; each shot is billed exactly once."""

import asyncio
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.asyncutils import run_coro_as_sync

from prefect_video import Asset, InvalidInput, Shot
from prefect_video.emulator import Emulator
from prefect_video.tasks import agenerate_video, generate_video
from tests.support.task_runs import await_task_runs


def a_shot(name: str) -> Shot:
    return Shot(id=name, prompt=f"prompt of {name}", duration=1, resolution="480p")


@task(cache_policy=NO_CACHE, persist_result=False)
def write_shot(name: str) -> Shot:
    return a_shot(name)


@task(cache_policy=NO_CACHE, persist_result=False)
def write_prompt(name: str) -> str:
    return f"Prompt of {name}"


def billed(emulator: Emulator) -> dict[str, int]:
    emulator.wait_until_idle()
    return {
        prompt.lower().removeprefix("prompt of "): n["billed"] for prompt, n in emulator.usage()["by_prompt"].items()
    }


def test_a_sync_flow_on_threads(session: Path, emulator: Emulator) -> None:
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=4))  # type: ignore[arg-type]
    def embedding() -> list[str]:
        later: list[Any] = [
            generate_video.submit(a_shot("submitted")),
            generate_video.submit(write_shot.submit("of-a-future")),
            *generate_video.map([a_shot("mapped-1"), a_shot("mapped-2")], project=unmapped("film")),
            *generate_video.map(write_shot.map(["of-futures-1", "of-futures-2"]), project=unmapped("film")),
        ]
        assets: list[Asset] = [
            generate_video(a_shot("direct")),
            generate_video(write_prompt.submit("future")),  # type: ignore[arg-type]
            *(future.result() for future in later),
        ]
        return [asset.shot_id for asset in assets]

    state = embedding(return_state=True)
    made = state.result()
    assert isinstance(made, list)
    assert made[:2] == ["direct", "prompt-of-future"]
    assert billed(emulator) == dict.fromkeys((name.removeprefix("prompt-of-") for name in made), 1)
    assert len(made) == 8
    names = {"generate shots/prompt-of-future", "generate shots/of-a-future", "generate film/of-futures-2"}
    task_runs = run_coro_as_sync(await_task_runs(state.state_details.flow_run_id, 12))
    assert names <= {run.name for run in task_runs}


async def test_an_async_flow_in_a_running_loop(session: Path, emulator: Emulator) -> None:
    @flow
    async def embedding() -> list[Asset]:
        later: list[Any] = [
            agenerate_video.submit(write_shot.submit("async-submitted")),
            *agenerate_video.map(write_shot.map(["async-mapped-1", "async-mapped-2"]), project=unmapped("film")),
            generate_video.submit(write_shot.submit("sync-submitted")),
        ]
        return [
            await agenerate_video(write_shot.submit("awaited")),  # type: ignore[arg-type]
            generate_video(write_shot.submit("sync-direct")),  # type: ignore[arg-type]
            *[future.result() for future in later],
        ]

    assets = await embedding()
    assert billed(emulator) == dict.fromkeys((asset.shot_id for asset in assets), 1)
    assert len(assets) == 6


def task_runner(kind: str) -> TaskRunner[Any]:
    """Build a task runner whose tasks run in other processes."""
    if kind == "processes":
        return ProcessPoolTaskRunner(max_workers=2)
    if kind == "dask":
        # Imported here: every process of the suite reads this file, and one runs it.
        from prefect_dask import DaskTaskRunner

        return DaskTaskRunner(cluster_kwargs={"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None})
    prefect_ray = pytest.importorskip("prefect_ray", reason="the extra `fleet` is not installed")
    ray: TaskRunner[Any] = prefect_ray.RayTaskRunner(init_kwargs={"num_cpus": 2, "include_dashboard": False})
    return ray


@pytest.mark.parametrize("kind", ["processes", "dask", "ray"])
def test_workers_of_other_processes(session: Path, emulator: Emulator, kind: str) -> None:
    runner = task_runner(kind)

    @flow(task_runner=runner)
    def embedding() -> list[str]:
        futures = [
            generate_video.submit(write_shot.submit("submitted")),
            *generate_video.map(write_shot.map(["mapped-1", "mapped-2"]), project=unmapped("film")),
        ]
        return [future.result().shot_id for future in futures]

    made = embedding()
    assert sorted(made) == ["mapped-1", "mapped-2", "submitted"]
    assert billed(emulator) == dict.fromkeys(made, 1)


@pytest.mark.parametrize("called", ["in no flow", "in a flow", "in a running loop"])
def test_a_failing_call_shows_its_own_error_first(session: Path, called: str) -> None:
    def fail() -> Asset:
        return generate_video(a_shot("failing"), provider="unknown")

    async def fail_in_loop() -> Asset:
        return fail()

    calls: dict[str, Callable[[], object]] = {
        "in no flow": fail,
        "in a flow": flow(fail),
        "in a running loop": lambda: asyncio.run(fail_in_loop()),
    }
    with pytest.raises(InvalidInput) as caught:
        calls[called]()
    shown = "".join(traceback.format_exception(caught.value))
    assert "no running event loop" not in shown
    assert "there is no provider 'unknown'" in shown.splitlines()[-1]
