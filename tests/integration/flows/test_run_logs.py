"""The package's lines in Prefect: read back through its API, in the run they belong to, once, and few."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import Log
from prefect.logging.handlers import APILogHandler
from prefect.states import Cancelled, State

from prefect_video import Project, Shot
from prefect_video._dedicated_thread import DedicatedThread
from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.flows import cancel_generations, generate_project
from prefect_video.ledger import Ledger
from prefect_video.tasks import open_ledger, send_logs

PACKAGE = logging.getLogger("prefect_video")
FILM = Project(name="film", shots=(Shot(id="sea", prompt="the sea at night", duration=1, resolution="480p"),))


@pytest.fixture(autouse=True)
def untouched_logger() -> Iterator[None]:
    """The package's logger is without a setting before each test, and again after it."""
    before = PACKAGE.handlers[:], PACKAGE.level
    assert PACKAGE.level == logging.NOTSET
    yield
    assert (PACKAGE.handlers, PACKAGE.level) == before, "a run leaves something on the logger"


@pytest.fixture
def slow() -> Iterator[Emulator]:
    """A provider whose videos take longer than any test."""
    with Emulator(EmulatorSettings(port=0, speed=0.01)) as emulator:
        yield emulator


async def lines_of(flow_run_id: UUID) -> list[Log]:
    """Every line of the package in a run, tasks included, in order of time."""
    await APILogHandler.aflush()
    async with get_client() as client:
        logs = await client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])), limit=200)
    return sorted((log for log in logs if log.name.startswith("prefect_video")), key=lambda log: log.timestamp)


def run_of(state: State[object]) -> UUID:
    assert state.state_details.flow_run_id is not None
    return state.state_details.flow_run_id


async def test_each_change_of_a_shots_state_is_one_line_that_names_run_job_and_cost(session: Path) -> None:
    state = await generate_project(FILM, return_state=True)
    lines = await lines_of(run_of(state))
    changes = [line.message.split(" (")[0].removeprefix("film/sea take 1: ") for line in lines]
    assert changes == ["reserved", "submitted", "completed", "stored"]
    async with await Ledger.open() as ledger:
        (job,) = await ledger.jobs.find()
    assert f"run {run_of(state)}, job {job.id}, generation -, $0.30)" in lines[0].message
    assert f"run {run_of(state)}, job {job.id}, generation {job.generation_id}, $0.30)" in lines[-1].message
    assert all(line.level == logging.INFO for line in lines)
    # What a task has logged is shown in its own run, too.
    assert [line.task_run_id is not None for line in lines] == [False, True, True, True]


async def test_a_line_that_a_setting_sends_already_is_not_sent_twice(session: Path) -> None:
    by_setting = APILogHandler()
    PACKAGE.addHandler(by_setting)
    try:
        state = await generate_project(FILM, return_state=True)
    finally:
        PACKAGE.removeHandler(by_setting)
    assert len(await lines_of(run_of(state))) == 4


async def test_the_lines_of_the_hook_are_in_the_run_that_was_cancelled(
    session: Path, slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SORA_API_KEY", slow.key)
    monkeypatch.setenv("SORA_API_ENDPOINT", slow.endpoint)
    state = await generate_project(FILM, wait=False, return_state=True)
    before = len(await lines_of(run_of(state)))
    async with get_client() as client:
        run = await client.read_flow_run(run_of(state))
    # In a context of its own, as in the runner's process.
    await cancel_generations(generate_project, run, Cancelled())
    (line,) = (await lines_of(run.id))[before:]
    assert line.message.startswith("film/sea take 1: cancelled: ")
    assert line.message.endswith("$0.00)")
    assert slow.usage()["cancelled"] == 1


async def test_lines_from_threads_and_nested_runs_reach_the_run_they_belong_to(session: Path) -> None:
    logger = logging.getLogger("prefect_video.threads")
    thread = DedicatedThread("test")
    inner_ended = asyncio.Event()

    @flow
    async def inner() -> UUID | None:
        async with open_ledger(None):
            logger.info("inner")
        inner_ended.set()
        return None

    @flow
    async def outer() -> None:
        async with open_ledger(None):
            await inner()
            await asyncio.to_thread(logger.info, "from a worker thread")
            await thread.run(logger.info, "from the dedicated thread")

    @flow
    async def other() -> None:
        async with open_ledger(None):
            await inner_ended.wait()
            logger.info("other")

    outer_state, other_state = await asyncio.gather(outer(return_state=True), other(return_state=True))
    await thread.close(lambda: None)
    logger.info("outside of any run")
    with send_logs():
        assert PACKAGE.level == logging.NOTSET, "nothing is sent where there is no run"
    texts = [line.message for line in await lines_of(run_of(outer_state))]
    assert texts == ["from a worker thread", "from the dedicated thread"]
    assert [line.message for line in await lines_of(run_of(other_state))] == ["other"]
