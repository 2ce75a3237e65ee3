"""An account that is renamed beside a running service: refused while that works on a job, and nothing is paid twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.errors import InvalidTransition
from prefect_video.ledger import Job, Ledger, State
from tests.support.recovery_fixtures import SLOW
from tests.support.service_fixtures import open_environment_session, run_service
from tests.unit.service.test_jobs import generate, wait_for_status


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Run a provider that works until the test lets it, and set it as that of the environment."""
    with Emulator(EmulatorSettings(port=0, render="plate", **SLOW)) as emulator:
        monkeypatch.setenv("SORA_API_ENDPOINT", emulator.endpoint)
        yield emulator


async def account_id() -> str:
    """Return the id of the environment's account under the name that it has now."""
    async with await open_environment_session() as session:
        return session.provider.account.id


async def wait_for_owned(ledger: Ledger, account: str) -> Job:
    """Wait until one of an account's two jobs is at the provider and the other waits for its slot; return that one."""
    async with asyncio.timeout(60):
        while True:
            jobs = await ledger.jobs.unfinished(account=account)
            waiting = [job for job in jobs if job.state is State.RESERVED and job.owner]
            if {job.state for job in jobs} == {State.SUBMITTED, State.RESERVED} and waiting:
                return waiting[0]
            await asyncio.sleep(0.02)


async def test_an_account_is_renamed_when_its_service_has_ended_and_each_job_is_paid_once(
    either: Path, slow: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_VIDEO_ACCOUNT_SLOTS", "1")
    former = await account_id()
    async with run_service() as service:
        answers = [(await generate(service, key=key, prompt=key)).json()["job_id"] for key in ("r-1", "r-2")]
        monkeypatch.setenv("PREFECT_VIDEO_ACCOUNT", "renamed")
        renamed = await account_id()
        async with await open_environment_session() as session:
            waiting = await wait_for_owned(session.ledger, former)
            with pytest.raises(InvalidTransition, match=f"{waiting.owner} works on its jobs, and nothing was moved"):
                await session.ledger.names.rename(former, renamed)
            assert len(await session.ledger.jobs.unfinished(account=former)) == 2
    async with await open_environment_session() as session:
        assert await session.ledger.names.rename(former, renamed) == 2
    slow.change_speed(500)
    async with run_service(collect=True, sweep_seconds=0.1) as service:
        for key, job_id in zip(("r-1", "r-2"), answers, strict=True):
            assert (await generate(service, key=key, prompt=key)).json()["job_id"] == job_id
            assert (await wait_for_status(service, job_id, "completed", "failed"))["status"] == "completed"
    async with await open_environment_session() as session:
        assert {job.account for job in await session.ledger.jobs.find(limit=None)} == {renamed}
    usage = slow.usage()
    assert (usage["accepted"], usage["billed"]) == (2, 2)
