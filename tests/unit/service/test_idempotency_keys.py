"""One `Idempotency-Key` stands for one request: by the provider's usage, in every process, after every restart."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import httpx
import pytest
from sqlalchemy import select, update

from prefect_video.emulator import Emulator
from prefect_video.errors import IdempotencyKeyReused, InvalidInput, LedgerUnavailable
from prefect_video.ledger import Ledger, Requester, State
from prefect_video.ledger.tables import idempotency_keys
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.service.jobs.bodies import GenerateBody
from prefect_video.service.jobs.service import JobService
from prefect_video.service.sessions import Sessions
from prefect_video.session import Session
from tests.support.service_fixtures import open_environment_session, run_service
from tests.unit.service.test_jobs import generate, wait_for_status

CHANGES: list[dict[str, Any]] = [
    {"prompt": "a dog"},
    {"duration": 2},
    {"take": 2},
    {"project_id": "another"},
    {"user_id": "user-2"},
    {"priority": "high"},
    {"metadata": {"team": "film"}},
]


def assert_refused(answer: httpx.Response) -> None:
    """Assert that an answer is the problem of a key that belongs to another request."""
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["type"], problem["status"]) == ("urn:prefect-video:idempotency-key-reused", 422)
    assert "'r-1' was used before" in problem["detail"]
    assert "nothing was sent" in problem["detail"]


async def test_another_content_with_the_same_key_is_refused_and_not_paid(either: Path, provider: Emulator) -> None:
    async with run_service() as service:
        job = (await generate(service, key="r-1")).json()
        await wait_for_status(service, job["job_id"], "processing")
        for changes in CHANGES:
            assert_refused(await generate(service, key="r-1", **changes))
        assert await service.count("prefect_video_jobs_total", outcome="refused") == len(CHANGES)
        again = await generate(service, key="r-1", resolution="480p", priority="normal", metadata=None)
        assert again.json()["job_id"] == job["job_id"]
    async with run_service() as restarted:
        assert_refused(await generate(restarted, key="r-1", prompt="a dog"))
        assert (await generate(restarted, key="r-1")).json()["job_id"] == job["job_id"]
        assert (await generate(restarted, key="r-2", prompt="a dog")).status_code == 202
        async with asyncio.timeout(60):
            while provider.usage()["accepted"] < 2:
                await asyncio.sleep(0.02)
    assert provider.usage()["accepted"] == 2


async def test_two_services_race_for_a_key_and_one_content_wins(either: Path, provider: Emulator) -> None:
    async with run_service() as first, run_service() as second:
        requests = [
            generate(service, key="r-1", prompt=f"cat {number}") for number in range(6) for service in (first, second)
        ]
        answers = await asyncio.gather(*requests)
        accepted = [answer for answer in answers if answer.status_code == 202]
        assert len(accepted) == 2
        (job_id,) = {answer.json()["job_id"] for answer in accepted}
        for answer in answers:
            if answer not in accepted:
                assert_refused(answer)
        await wait_for_status(first, job_id, "processing", "completed")
    assert provider.usage()["accepted"] == 1


async def test_a_request_that_cannot_be_made_does_not_use_up_its_key(environment: Path, provider: Emulator) -> None:
    async with run_service() as service:
        assert (await generate(service, key="r-1", prompt=" ")).status_code == 422
        assert (await generate(service, key="r-1", duration=0)).status_code == 422
        assert (await generate(service, key="r-1")).status_code == 202
    assert provider.usage()["accepted"] <= 1


async def test_a_key_is_not_paid_again_when_its_video_is_too_old_or_gone(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_service(collect=True, sweep_seconds=0.1) as service:
        job = (await generate(service, key="r-1")).json()
        done = await wait_for_status(service, job["job_id"], "completed", "failed")
    Path(done["uri"].removeprefix("file://")).unlink()
    monkeypatch.setenv("PREFECT_VIDEO_TTL_SECONDS", "0")
    async with run_service() as service:
        again = await generate(service, key="r-1")
        assert (again.status_code, again.json()["job_id"]) == (200, job["job_id"])
    assert provider.usage()["accepted"] == 1


async def test_a_released_job_costs_nothing_and_its_key_may_be_sent_again(
    environment: Path, provider: Emulator
) -> None:
    async with run_service() as service:
        job = (await generate(service, key="r-1", prompt="[policy] no")).json()
        refused = await wait_for_status(service, job["job_id"], "failed")
        assert (refused["state"], refused["cost_usd"]) == ("released", 0)
        again = await generate(service, key="r-1", prompt="[policy] no")
        assert again.status_code == 202
        await wait_for_status(service, again.json()["job_id"], "failed")
    async with await open_environment_session() as session:
        assert {job.cost_usd for job in await session.ledger.jobs.find()} == {0}
        assert await session.ledger.spend.report(by="month") == []
    assert provider.usage()["accepted"] == 0


async def test_a_restart_with_another_account_first_joins_the_unfinished_job(
    environment: Path, provider: Emulator
) -> None:
    body = GenerateBody(prompt="a cat", duration=1, resolution="480p")
    async with await open_environment_session() as own:
        service = JobService(Sessions((own,)))
        created, outcome = await service.create(body, key="r-1")
        assert outcome == "accepted"
        await service.aclose()
    async with await open_environment_session() as first, await open_environment_session() as own:
        first.provider = SoraProvider(api_key=provider.key, endpoint=provider.endpoint, plan="emulator", name="another")
        assert first.provider.account.id != own.provider.account.id
        service = JobService(Sessions((first, own)))
        joined, outcome = await service.create(body, key="r-1")
        assert (outcome, joined.job_id) == ("joined", created.job_id)
        async with asyncio.timeout(60):
            while (job := await own.ledger.jobs.get(created.job_id)).generation_id is None:
                await asyncio.sleep(0.02)
        assert job.account == own.provider.account.id
        again, outcome = await service.create(body, key="r-1")
        assert (outcome, again.job_id) == ("joined", created.job_id)
        await service.aclose()
    assert provider.usage()["accepted"] == 1


async def test_keys_are_shared_within_one_environment_only(ledger: Ledger, other: Ledger) -> None:
    first = await ledger.idempotency.bind_key("k", "digest", account="a-1", environment="production")
    assert (first.account, first.job_id) == ("a-1", None)
    staging = await other.idempotency.bind_key("k", "another", account="a-2", environment="staging")
    assert (staging.account, staging.job_id) == ("a-2", None)
    with pytest.raises(IdempotencyKeyReused):
        await other.idempotency.bind_key("k", "another", account="a-1", environment="production")
    # It stays with its account, whichever service gets it next.
    assert await other.idempotency.bind_key("k", "digest", account="a-2", environment="production") == first


BODY = GenerateBody(prompt="a cat", duration=1, resolution="480p")


async def open_two_accounts(provider: Emulator) -> tuple[Session, Session]:
    """Open two sessions of one ledger, each with an account of its own."""
    own, another = await open_environment_session(), await open_environment_session()
    another.provider = SoraProvider(api_key=provider.key, endpoint=provider.endpoint, plan="emulator", name="another")
    return own, another


async def test_two_services_with_other_first_accounts_pay_for_a_key_once(either: Path, provider: Emulator) -> None:
    first, second = await open_two_accounts(provider), await open_two_accounts(provider)
    async with AsyncExitStack() as stack:
        for session in (*first, *second):
            await stack.enter_async_context(session)
        services = [JobService(Sessions(first)), JobService(Sessions(second[::-1]))]
        answers = await asyncio.gather(*(service.create(BODY, key="r-1") for service in services for _ in range(3)))
        (job_id,) = {view.job_id for view, _ in answers}
        async with asyncio.timeout(60):
            while (await first[0].ledger.jobs.get(job_id)).generation_id is None:
                await asyncio.sleep(0.02)
        for service in services:
            await service.aclose()
    assert provider.usage()["accepted"] == 1


async def test_a_service_that_dies_before_it_answers_leaves_its_job_to_the_key(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has claimed the job; when that has failed, the key must not pay for another."""
    provider.add_fault(operation="submit", kind="blocked", code="oom", message="CUDA error")

    async def die(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    own, another = await open_two_accounts(provider)
    async with own, another:
        service = JobService(Sessions((own, another)), collect=True)
        with monkeypatch.context() as patch:
            patch.setattr(service, "_request_callback", die)
            with pytest.raises(asyncio.CancelledError):
                await service.create(BODY, key="r-1")
        (job,) = await own.ledger.jobs.find()
        await own.ledger.claims.release_ownership([job.id])
        async with own.ledger._database.writing() as connection:
            assert (await connection.execute(select(idempotency_keys.c.job_id))).scalars().all() == [job.id]
            # The answer is lost as well: the job is recorded under its key.
            await connection.execute(update(idempotency_keys).values(job_id=None))
        # The restarted service has another account first, and only that one at all in the end.
        for accounts in ((another, own), (another,)):
            restarted = JobService(Sessions(accounts), collect=True)
            view, outcome = await restarted.create(BODY, key="r-1")
            assert (view.job_id, outcome) == (job.id, "joined")
            if own in accounts:
                async with asyncio.timeout(60):
                    while (await own.ledger.jobs.get(job.id)).state is not State.FAILED:
                        await restarted.resume()
                        await asyncio.sleep(0.05)
            await restarted.aclose()
        await service.aclose()
    assert provider.usage()["accepted"] == 1


async def test_a_job_whose_callback_cannot_be_recorded_is_sent_all_the_same(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is to repeat its request; no one else would send a job that this living process owns."""
    body = BODY.model_copy(update={"callback_url": "https://client.example/done"})
    requester = Requester(name="anna")
    async with await open_environment_session() as session:
        service, callbacks = JobService(Sessions((session,))), session.ledger.callbacks
        with monkeypatch.context() as patch:
            patch.setattr(callbacks, "add", AsyncMock(side_effect=LedgerUnavailable("busy")))
            with pytest.raises(LedgerUnavailable):
                await service.create(body, key="r-1", requester=requester)
        view, outcome = await service.create(body, key="r-1", requester=requester)
        assert outcome == "joined"
        async with asyncio.timeout(60):
            while (await session.ledger.jobs.get(view.job_id)).generation_id is None:
                await service.resume()
                await asyncio.sleep(0.02)
        await service.aclose()
    assert provider.usage()["accepted"] == 1


async def test_a_key_of_an_account_that_a_service_does_not_have_is_refused(
    environment: Path, provider: Emulator
) -> None:
    own, another = await open_two_accounts(provider)
    async with own, another:
        bind = own.ledger.idempotency.bind_key
        await bind("r-1", BODY.digest, account="gone", environment=own.settings.environment)
        with pytest.raises(InvalidInput, match="first used with account 'gone'"):
            await JobService(Sessions((own, another))).create(BODY, key="r-1")
    assert provider.usage()["submitted"] == 0
