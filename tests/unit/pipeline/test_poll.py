"""Waiting as a step, against the real emulator and a real ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from prefect_video.emulator import Emulator
from prefect_video.errors import DeadlinePassed, GenerationCancelled, GenerationLost, NeedsAttention
from prefect_video.ledger import State
from prefect_video.pipeline.steps import poll
from tests.support.polling_fixtures import OpenStudio, submitted

MakeEmulator = Callable[..., Emulator]


async def test_many_that_wait_share_lists(open_studio: OpenStudio, crowded: MakeEmulator) -> None:
    with crowded(times="fixed:20") as emulator:
        async with open_studio(emulator) as studio:
            rows = await submitted(studio, 30)
            ended = await asyncio.gather(*(poll(studio, row) for row in rows))
        asked = emulator.books()["requests"]
    assert {row.state for row in ended} == {State.COMPLETED}
    assert all(row.actual_usd is not None for row in ended)
    assert asked["list"] >= 1
    assert asked["list"] + asked["retrieve"] <= 2.5 * 30


@pytest.mark.parametrize("listing", ["404", "405"])
async def test_a_provider_that_refuses_to_list(open_studio: OpenStudio, crowded: MakeEmulator, listing: str) -> None:
    with crowded(times="fixed:10", listing=listing) as emulator:
        async with open_studio(emulator) as studio:
            rows = await submitted(studio, 10)
            ended = await asyncio.gather(*(poll(studio, row) for row in rows))
        assert emulator.books()["requests"].get("list", 0) <= 1
    assert {row.state for row in ended} == {State.COMPLETED}


async def test_faults_of_looks_lose_nothing(open_studio: OpenStudio, crowded: MakeEmulator) -> None:
    with crowded(times="fixed:10") as emulator:
        for kind in ("error_before", "reset_after", "wrong_content", "rate_limited", "unknown_status"):
            emulator.add_fault(operation="retrieve", kind=kind, times=2, retry_after=0.1)
            emulator.add_fault(operation="list", kind=kind, times=2, retry_after=0.1)
        async with open_studio(emulator) as studio:
            rows = await submitted(studio, 10)
            ended = await asyncio.gather(*(poll(studio, row) for row in rows))
        books = emulator.books()
    assert {row.state for row in ended} == {State.COMPLETED}
    assert (books["accepted"], books["cancelled"]) == (10, 0)


async def test_a_generation_that_is_always_denied_is_lost(open_studio: OpenStudio, crowded: MakeEmulator) -> None:
    with crowded() as emulator:
        async with open_studio(emulator, on_lost="resubmit") as studio:
            (row,) = await submitted(studio, 1)
            emulator.add_fault(operation="retrieve", kind="not_found", times=None)
            studio.watcher = type(studio.watcher)(studio.provider, lost_after=2)
            with pytest.raises(GenerationLost):
                await poll(studio, row)
            assert (await studio.ledger.get(row.id)).state is State.LOST


async def overdue(studio_settings: dict[str, str], open_studio: OpenStudio, emulator: Emulator) -> tuple[object, ...]:
    """What a wait past its deadline raises, and the row after it."""
    async with open_studio(emulator, **studio_settings) as studio:
        (row,) = await submitted(studio, 1)
        row = await studio.ledger.set_deadline(row.id, datetime.now(UTC) + timedelta(seconds=0.2))
        with pytest.raises((DeadlinePassed, NeedsAttention, GenerationCancelled)) as raised:
            await poll(studio, row)
        return type(raised.value), await studio.ledger.get(row.id)


async def test_past_its_deadline_it_is_left(open_studio: OpenStudio, crowded: MakeEmulator) -> None:
    with crowded(times="fixed:3600") as emulator:
        raised, row = await overdue({}, open_studio, emulator)
        assert emulator.books()["cancelled"] == 0
    assert (raised, row.state, row.attention) == (DeadlinePassed, State.SUBMITTED, None)


async def test_past_its_deadline_it_is_held(open_studio: OpenStudio, crowded: MakeEmulator) -> None:
    with crowded(times="fixed:3600") as emulator:
        raised, row = await overdue({"on_deadline": "hold"}, open_studio, emulator)
        assert emulator.books()["cancelled"] == 0
    assert (raised, row.state) == (NeedsAttention, State.SUBMITTED)
    assert "prefect-video cancel" in row.attention


async def test_past_its_deadline_it_is_cancelled(open_studio: OpenStudio, crowded: MakeEmulator) -> None:
    with crowded(times="fixed:3600") as emulator:
        raised, row = await overdue({"on_deadline": "cancel"}, open_studio, emulator)
        assert emulator.books()["cancelled"] == 1
    assert (raised, row.state) == (GenerationCancelled, State.CANCELLED)


async def test_what_can_no_longer_be_cancelled_is_left(open_studio: OpenStudio, crowded: MakeEmulator) -> None:
    with crowded(speed=1.0, times="fixed:1.5") as emulator:
        async with open_studio(emulator, on_deadline="cancel") as studio:
            (row,) = await submitted(studio, 1)
            row = await studio.ledger.set_deadline(row.id, datetime.now(UTC) + timedelta(seconds=1.1))
            with pytest.raises(DeadlinePassed):
                await poll(studio, row)
            assert (await studio.ledger.get(row.id)).state is State.SUBMITTED
        assert emulator.books()["cancelled"] == 0
