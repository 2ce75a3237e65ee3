"""Collecting what runs have left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import update

from prefect_video.ledger import Entry, State
from prefect_video.ledger.tables import generations
from prefect_video.pipeline.collect import collect
from prefect_video.pipeline.project_run import run_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.session.session import SessionEvent, Studio
from tests.support.recovery import Workshop, a_shot, collect_with, film, statuses
from tests.support.recovery_fixtures import SLOW, OpenWorkshop


@pytest.mark.parametrize("moment", ["before_send", "answered", "submitted", "completed", "downloading", "published"])
async def test_what_a_run_left_is_finished_without_a_payment(workshop: Workshop, moment: SessionEvent) -> None:
    workshop.emulator.add_fault(operation="submit", kind="delay", seconds=0.2)
    await workshop.interrupt(a_shot(), moment)
    accepted = workshop.paid
    assert accepted[0] <= 1
    outcomes = [line.outcome for line in await workshop.collect(wait=True)]
    row = await workshop.row()
    if row.state is State.RELEASED:
        assert outcomes == ["released: it was never sent"]
        assert workshop.paid == (0, 0)
    else:
        assert outcomes == ["stored"]
        assert row.state is State.STORED
        assert workshop.paid == (1, 1)
    history = await _history(workshop)
    assert await workshop.collect(wait=True) == []
    assert await _history(workshop) == history
    assert statuses(await workshop.run(a_shot())) == ["stored"]
    assert workshop.paid == (1, 1)


async def test_what_is_still_being_made_is_left(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop(**SLOW)
    await workshop.interrupt(a_shot(), "submitted")
    assert [line.outcome for line in await workshop.collect()] == ["still being made"]
    row = await workshop.row()
    assert (row.state, row.owner) == (State.SUBMITTED, None)
    workshop.emulator.change_speed(500)
    assert [line.outcome for line in await workshop.collect(wait=True)] == ["stored"]
    assert workshop.paid == (1, 1)


async def test_what_waits_for_a_human_goes_on_waiting(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop(listing="404")
    workshop.emulator.add_fault(operation="submit", kind="error_after")
    assert statuses(await workshop.run(a_shot())) == ["held"]
    (line,) = await workshop.collect()
    assert line.outcome == "needs a human"
    assert line.entry.attention
    assert line.entry == await workshop.row()


async def test_a_failure_is_written_down(workshop: Workshop) -> None:
    await workshop.interrupt(a_shot(prompt="a cat [fail]"), "submitted")
    workshop.emulator.settle()
    assert [line.outcome for line in await workshop.collect()] == ["ended without a video"]
    assert (await workshop.row()).state is State.FAILED
    assert workshop.paid == (1, 0)


async def test_a_provider_that_does_not_answer_is_asked_by_the_next_sweep(workshop: Workshop) -> None:
    await workshop.interrupt(a_shot(), "submitted")
    workshop.emulator.settle()
    workshop.emulator.add_fault(operation="retrieve", kind="error_before", times=None)
    assert [line.outcome for line in await workshop.collect()] == ["left for later"]
    workshop.emulator.clear_faults()
    assert [line.outcome for line in await workshop.collect()] == ["stored"]
    assert workshop.paid == (1, 1)


async def test_an_account_that_cannot_be_opened_keeps_back_no_other(workshop: Workshop) -> None:
    for number in (1, 2):
        await workshop.interrupt(a_shot(number), "submitted")
    workshop.emulator.settle()
    broken = generations.c.id == (await workshop.rows())[0].id
    async with workshop.studio() as studio:
        async with studio.ledger._database.writing() as connection:
            await connection.execute(update(generations).where(broken).values(credentials="broken"))

        @asynccontextmanager
        async def open_studio(entry: Entry) -> AsyncIterator[Studio]:
            if entry.credentials == "broken":
                raise RuntimeError("the vault is closed")
            yield studio

        swept = await collect(studio.ledger, open_studio)
    assert sorted((line.outcome, line.error) for line in swept if line.error) == [("left", "the vault is closed")]
    assert [row.state for row in await workshop.rows()] == [State.SUBMITTED, State.STORED]


@pytest.mark.parametrize("shared", [True, False], ids=["in the same process", "in another one"])
async def test_beside_a_live_run_nothing_that_it_works_on_is_touched(open_workshop: OpenWorkshop, shared: bool) -> None:
    workshop = open_workshop(**SLOW)
    at_work = asyncio.Event()

    def observer(moment: SessionEvent, entry: Entry) -> None:
        if moment == "submitted":
            at_work.set()

    async with workshop.studio(observer=observer) as studio:
        run: asyncio.Task[ProjectReport] = asyncio.create_task(run_project(studio, film(a_shot(1), a_shot(2))))
        await at_work.wait()
        swept = await (collect_with(studio) if shared else workshop.collect())
        assert {line.outcome for line in swept} == {"somebody is working on it"}
        workshop.emulator.change_speed(500)
        assert statuses(await run) == ["stored", "stored"]
    assert workshop.paid == (2, 2)


async def _history(workshop: Workshop) -> list[str]:
    async with workshop.ledger() as ledger:
        return [f"{step.to_state} {step.detail}" for step in await ledger.history((await workshop.rows())[0].id)]
