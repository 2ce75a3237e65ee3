"""Cancelling: what is not sent is released, what is under way is stopped where that can be, the rest is collected."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from sqlalchemy import select

from prefect_video.ledger import Budget, Entry, State
from prefect_video.ledger.tables import generations
from prefect_video.pipeline.cancel import cancel, cancel_each
from prefect_video.pipeline.project_run import run_project
from prefect_video.session.session import SessionEvent
from tests.support.recovery import Workshop, a_shot, film, statuses
from tests.support.recovery_fixtures import SLOW, OpenWorkshop


async def cancel_all(workshop: Workshop) -> list[Entry]:
    async with workshop.studio() as studio:
        ended = await cancel_each(studio, await studio.ledger.unfinished())
    assert all(isinstance(one, Entry) for one in ended)
    return [one for one in ended if isinstance(one, Entry)]


async def test_a_reservation_is_released(workshop: Workshop) -> None:
    await workshop.interrupt(a_shot(), "claimed")
    for _ in range(2):
        await cancel_all(workshop)
        assert (await workshop.row()).state is State.RELEASED
    assert workshop.paid == (0, 0)


async def test_a_generation_is_stopped_and_costs_nothing(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop(**SLOW)
    await workshop.interrupt(a_shot(), "submitted")
    (row,) = await cancel_all(workshop)
    assert (row.state, row.actual_usd) == (State.CANCELLED, Decimal(0))
    async with workshop.ledger() as ledger:
        (standing,) = await ledger.budget_standing([Budget(scope="project")], project="film", account=row.account)
    assert (standing.committed_usd, standing.videos) == (0, 0)
    assert workshop.paid == (1, 0)
    assert workshop.emulator.books()["cancelled"] == 1


async def test_one_that_is_too_far_is_left_and_collected(workshop: Workshop) -> None:
    await workshop.interrupt(a_shot(), "submitted")
    workshop.emulator.settle()
    (row,) = await cancel_all(workshop)
    assert row.state in (State.SUBMITTED, State.COMPLETED)
    assert [line.outcome for line in await workshop.collect()] == ["stored"]
    assert workshop.paid == (1, 1)


@pytest.mark.parametrize("limit", ["max_in_flight", "account_slots"])
async def test_a_run_whose_generation_is_cancelled_says_so(open_workshop: OpenWorkshop, limit: str) -> None:
    workshop = open_workshop(**SLOW)
    sent = asyncio.Event()

    def observer(moment: SessionEvent, entry: Entry) -> None:
        if moment == "submitted":
            sent.set()

    # One slot: the second shot waits, reserved, while the first is being made.
    async with workshop.studio(observer=observer, **{limit: 1}) as studio:
        run = asyncio.create_task(run_project(studio, film(a_shot(1), a_shot(2))))
        await sent.wait()
        await cancel_all(workshop)
        report = await run
    assert statuses(report) == ["cancelled", "cancelled"]
    assert "cancelled before it was sent" in str(report.shots[1].error)
    assert {row.state for row in await workshop.rows()} == {State.CANCELLED, State.RELEASED}
    assert workshop.paid == (1, 0)


async def test_what_was_cancelled_may_be_made_after_all(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop(**SLOW)
    await workshop.interrupt(a_shot(), "submitted")
    await cancel_all(workshop)
    workshop.emulator.change_speed(500)
    assert statuses(await workshop.run(a_shot())) == ["stored"]
    assert workshop.paid == (2, 1)


async def test_a_row_that_waits_for_the_accounts_slot_is_given_up(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop(**SLOW)
    await workshop.interrupt(a_shot(1), "submitted")
    claimed = asyncio.Event()

    def observer(moment: SessionEvent, entry: Entry) -> None:
        if moment == "claimed":
            claimed.set()

    run = asyncio.create_task(workshop.run(a_shot(2), observer=observer, account_slots=1))
    await claimed.wait()
    async with workshop.ledger() as ledger:
        (row,) = [row for row in await ledger.unfinished() if row.state is State.RESERVED]
        async with asyncio.timeout(10):
            while not await _waits_for_a_slot(workshop, row.id):
                await asyncio.sleep(0.02)
    async with workshop.studio() as studio:
        assert (await cancel(studio, row.id)).state is State.RELEASED
    assert statuses(await run) == ["cancelled"]
    assert workshop.emulator.books()["submitted"] == 1


async def _waits_for_a_slot(workshop: Workshop, entry_id: str) -> bool:
    async with workshop.ledger() as ledger, ledger._database.reading() as connection:
        found = await connection.execute(select(generations.c.waiting_since).where(generations.c.id == entry_id))
        return found.scalar_one() is not None
