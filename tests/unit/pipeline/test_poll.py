"""Waiting as a step, against the real emulator and a real ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from prefect_video.emulator import Emulator
from prefect_video.errors import DeadlineExceeded, GenerationCancelled, GenerationLost, HeldForReview
from prefect_video.ledger import State
from prefect_video.pipeline.steps import poll
from tests.support.polling_fixtures import SessionOpener, submitted
from tests.support.recovery import a_shot, statuses
from tests.support.recovery_fixtures import OpenHarness

MakeEmulator = Callable[..., Emulator]


async def test_many_that_wait_share_lists(open_session: SessionOpener, crowded: MakeEmulator) -> None:
    with crowded(times="fixed:20") as emulator:
        async with open_session(emulator) as session:
            jobs = await submitted(session, 30)
            ended = await asyncio.gather(*(poll(session, job) for job in jobs))
        requests = emulator.usage()["requests"]
    assert {job.state for job in ended} == {State.COMPLETED}
    assert all(job.actual_usd is not None for job in ended)
    assert requests["list"] >= 1
    assert requests["list"] + requests["retrieve"] <= 2.5 * 30


@pytest.mark.parametrize("listing", ["404", "405"])
async def test_a_provider_that_refuses_to_list(
    open_session: SessionOpener, crowded: MakeEmulator, listing: str
) -> None:
    with crowded(times="fixed:10", listing=listing) as emulator:
        async with open_session(emulator) as session:
            jobs = await submitted(session, 10)
            # Some sessions begin with a free read, which is of the list, too.
            before = emulator.usage()["requests"].get("list", 0)
            ended = await asyncio.gather(*(poll(session, job) for job in jobs))
        assert emulator.usage()["requests"].get("list", 0) <= before + 1
    assert {job.state for job in ended} == {State.COMPLETED}


async def test_a_wait_holds_no_answer_and_little_of_each_row(
    open_session: SessionOpener, crowded: MakeEmulator
) -> None:
    with crowded(times="fixed:3600") as emulator:
        async with open_session(emulator) as session:
            jobs = await submitted(session, 2)
            assert all(session.fresh_generations.get(str(job.generation_id)) for job in jobs)
            waits = [asyncio.create_task(poll(session, job)) for job in jobs]
            async with asyncio.timeout(60):
                while len(session.poller._targets) < 2:
                    await asyncio.sleep(0.01)
            assert not any(session.fresh_generations.get(str(job.generation_id)) for job in jobs)
            # pydantic keeps the names of what was given with each record: 2 KB of a job's 5.
            first, second = [await session.ledger.jobs.get(job.id) for job in jobs]
            assert first.__pydantic_fields_set__ is second.__pydantic_fields_set__ == set(type(first).model_fields)
            # The row's shot is the one that was requested, not another with the same words.
            assert [first.shot is jobs[0].shot, second.shot is jobs[1].shot] == [True, True]
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


async def test_faults_of_looks_lose_nothing(open_session: SessionOpener, crowded: MakeEmulator) -> None:
    with crowded(times="fixed:10") as emulator:
        async with open_session(emulator) as session:
            jobs = await submitted(session, 10)
            # Only now: the free read that a session begins with is of the list, too.
            for kind in ("error_before", "reset_after", "wrong_content", "rate_limited", "unknown_status"):
                emulator.add_fault(operation="retrieve", kind=kind, times=2, retry_after=0.1)
                emulator.add_fault(operation="list", kind=kind, times=2, retry_after=0.1)
            ended = await asyncio.gather(*(poll(session, job) for job in jobs))
        usage = emulator.usage()
    assert {job.state for job in ended} == {State.COMPLETED}
    assert (usage["accepted"], usage["cancelled"]) == (10, 0)


async def test_a_generation_that_is_always_denied_is_lost(open_session: SessionOpener, crowded: MakeEmulator) -> None:
    with crowded() as emulator:
        async with open_session(emulator, on_lost="resubmit") as session:
            (job,) = await submitted(session, 1)
            emulator.add_fault(operation="retrieve", kind="not_found", times=None)
            session.poller = type(session.poller)(session.provider, lost_after=2)
            with pytest.raises(GenerationLost):
                await poll(session, job)
            assert (await session.ledger.jobs.get(job.id)).state is State.LOST


async def overdue(
    session_overrides: dict[str, str], open_session: SessionOpener, emulator: Emulator
) -> tuple[object, ...]:
    """What a wait past its deadline raises, and the row after it."""
    async with open_session(emulator, **session_overrides) as session:
        (job,) = await submitted(session, 1)
        job = await session.ledger.jobs.set_deadline(job.id, datetime.now(UTC) + timedelta(seconds=0.2))
        with pytest.raises((DeadlineExceeded, HeldForReview, GenerationCancelled)) as raised:
            await poll(session, job)
        return type(raised.value), await session.ledger.jobs.get(job.id)


async def test_past_its_deadline_it_is_left(open_session: SessionOpener, crowded: MakeEmulator) -> None:
    with crowded(times="fixed:3600") as emulator:
        raised, job = await overdue({}, open_session, emulator)
        assert emulator.usage()["cancelled"] == 0
    assert (raised, job.state, job.hold_reason) == (DeadlineExceeded, State.SUBMITTED, None)


async def test_past_its_deadline_it_is_held(open_session: SessionOpener, crowded: MakeEmulator) -> None:
    with crowded(times="fixed:3600") as emulator:
        raised, job = await overdue({"on_deadline": "hold"}, open_session, emulator)
        assert emulator.usage()["cancelled"] == 0
    assert (raised, job.state) == (HeldForReview, State.SUBMITTED)
    assert "prefect-video cancel" in job.hold_reason


async def test_past_its_deadline_it_is_cancelled(open_session: SessionOpener, crowded: MakeEmulator) -> None:
    with crowded(times="fixed:3600") as emulator:
        raised, job = await overdue({"on_deadline": "cancel"}, open_session, emulator)
        assert emulator.usage()["cancelled"] == 1
    assert (raised, job.state) == (GenerationCancelled, State.CANCELLED)


async def test_what_can_no_longer_be_cancelled_is_left(open_session: SessionOpener, crowded: MakeEmulator) -> None:
    with crowded(speed=1.0, times="fixed:1.5") as emulator:
        async with open_session(emulator, on_deadline="cancel") as session:
            (job,) = await submitted(session, 1)
            job = await session.ledger.jobs.set_deadline(job.id, datetime.now(UTC) + timedelta(seconds=1.1))
            with pytest.raises(DeadlineExceeded):
                await poll(session, job)
            assert (await session.ledger.jobs.get(job.id)).state is State.SUBMITTED
        assert emulator.usage()["cancelled"] == 0


@pytest.mark.parametrize("offset", [-600, 600])
async def test_an_estimate_by_a_wrong_clock_is_recorded_by_ours(open_harness: OpenHarness, offset: float) -> None:
    harness = open_harness(speed=20, clock_offset_seconds=offset)
    await harness.interrupt(a_shot(), "submitted")
    job = await harness.row()
    assert job.estimated_completion_at is not None
    assert job.submitted_at is not None
    # The generation takes about a second; both times of the provider are whole seconds.
    assert timedelta(0) < job.estimated_completion_at - job.submitted_at <= timedelta(seconds=5)
    assert statuses(await harness.run(a_shot())) == ["stored"]
