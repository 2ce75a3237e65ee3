"""What the cancellation hook reaches: every account that a run used, by whatever flow it was used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.states import Cancelled, State

from prefect_video import Project, Shot
from prefect_video.blocks import SoraCredentials
from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.flows import cancel_generations, generate_project
from prefect_video.ledger import Job, Ledger
from prefect_video.tasks import agenerate_video, observe

SHOT = {"id": "never", "prompt": "never done", "duration": 1, "resolution": "480p"}


@pytest.fixture
def slow() -> Iterator[Callable[[], Emulator]]:
    """A factory of providers whose videos take longer than any test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Emulator(EmulatorSettings(port=0, speed=0.01)))


@pytest.fixture
async def accounts(session: Path, slow: Callable[[], Emulator]) -> dict[str, Emulator]:
    """Two saved accounts, and what is behind each."""
    accounts = {f"sora-credentials/{name}": slow() for name in ("left", "right")}
    for name, account in accounts.items():
        block = SoraCredentials(api_key=account.key, endpoint=account.endpoint, plan="emulator")  # type: ignore[arg-type]
        await block.save(name.partition("/")[2], overwrite=True)  # type: ignore[misc]
    return accounts


def routed_to(account: str, others: list[str]) -> Project:
    """A project that is made by one of several accounts, and that names all of them."""
    name = account.partition("/")[2]
    given = {"project": name, "provider": account, "shots": [{**SHOT, "prompt": f"never done on the {name}"}]}
    return Project.model_validate({**given, "fallbacks": [{"provider": other} for other in others]})


async def cancelled(state: State[Any], hooked: Flow[Any, Any]) -> list[Job]:
    """Does what a runner does to a cancelled run, and returns the rows of the ledger."""
    assert state.state_details.flow_run_id is not None
    async with get_client() as client:
        run = await client.read_flow_run(state.state_details.flow_run_id)
    for hook in hooked.on_cancellation_hooks:
        await hook(hooked, run, Cancelled())  # type: ignore[misc]
    async with await Ledger.open() as ledger:
        return await ledger.jobs.find()


async def test_a_run_is_cancelled_at_the_account_that_its_project_names(
    accounts: dict[str, Emulator], emulator: Emulator
) -> None:
    left, right = accounts
    state = await generate_project(routed_to(left, [right]), wait=False, return_state=True)
    (job,) = await cancelled(state, generate_project)
    assert job.state.value == "cancelled"
    assert [account.usage()["cancelled"] for account in accounts.values()] == [1, 0]
    assert emulator.usage()["requests"] == {}


async def test_flows_within_a_flow_of_ones_own_are_cancelled_too(accounts: dict[str, Emulator]) -> None:
    @flow(on_cancellation=[cancel_generations])
    async def both() -> None:
        for account in accounts:
            await generate_project(routed_to(account, []), wait=False)

    jobs = await cancelled(await both(return_state=True), both)
    assert [job.state.value for job in jobs] == ["cancelled", "cancelled"]
    assert [account.usage()["cancelled"] for account in accounts.values()] == [1, 1]


async def test_a_video_of_a_flow_of_ones_own_is_cancelled(accounts: dict[str, Emulator]) -> None:
    name, account = next(iter(accounts.items()))

    @flow(on_cancellation=[cancel_generations])
    async def embedding() -> None:
        sent = asyncio.Event()
        with observe(lambda moment, _: sent.set() if moment == "submitted" else None):
            making = asyncio.create_task(agenerate_video(Shot.model_validate(SHOT), provider=name))
            await sent.wait()
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)

    (job,) = await cancelled(await embedding(return_state=True), embedding)
    assert job.state.value == "cancelled"
    assert account.usage()["cancelled"] == 1


async def test_an_account_that_cannot_be_opened_is_reported_and_keeps_back_no_other(
    accounts: dict[str, Emulator], caplog: pytest.LogCaptureFixture
) -> None:
    left = next(iter(accounts))

    @flow(on_cancellation=[cancel_generations])
    async def both() -> None:
        for account in accounts:
            await generate_project(routed_to(account, []), wait=False)

    state = await both(return_state=True)
    await SoraCredentials.adelete(left.partition("/")[2])
    with caplog.at_level(logging.WARNING):
        jobs = await cancelled(state, both)
    assert sorted((job.project, job.state.value) for job in jobs) == [("left", "submitted"), ("right", "cancelled")]
    assert "left/never" in caplog.text
    assert "sora-credentials/left" in caplog.text
