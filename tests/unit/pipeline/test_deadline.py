"""What is never done: every sweep applies the deadline, and in the end a human is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_video.ledger import State
from prefect_video.pipeline.collect import Collected
from prefect_video.pipeline.steps.deadline import LEFT_FOR
from tests.support.recovery import Workshop, a_shot, collect_with, statuses
from tests.support.recovery_fixtures import OpenWorkshop

JUST_NOW = timedelta(seconds=1)
LONG_AGO = LEFT_FOR + timedelta(hours=1)


async def submitted(workshop: Workshop, *, due: timedelta) -> None:
    """Leaves a generation at the provider that should have ended some time ago."""
    await workshop.interrupt(a_shot(), "submitted")
    async with workshop.ledger() as ledger:
        await ledger.set_deadline((await workshop.row()).id, datetime.now(UTC) - due)


async def completed(workshop: Workshop, *, due: timedelta) -> None:
    """Leaves a video at the provider whose link is dead for ever."""
    workshop.emulator.add_fault(operation="content", kind="not_found", times=None)
    assert statuses(await workshop.run(a_shot())) == ["failed"]
    async with workshop.ledger() as ledger:
        await ledger.set_deadline((await workshop.row()).id, datetime.now(UTC) - due)


async def sweep(workshop: Workshop, *, wait: bool = False, **settings: Any) -> Collected:
    async with workshop.studio(**settings) as studio:
        (line,) = await collect_with(studio, wait=wait)
    return line


@pytest.mark.parametrize("wait", [False, True])
async def test_a_sweep_applies_the_deadline(open_workshop: OpenWorkshop, wait: bool) -> None:
    workshop = open_workshop(speed=0.01)
    await submitted(workshop, due=JUST_NOW)
    line = await sweep(workshop, wait=wait)
    assert (line.outcome, line.entry.state, line.entry.attention) == ("left for later", State.SUBMITTED, None)
    line = await sweep(workshop, wait=wait, on_deadline="hold")
    assert (line.outcome, line.entry.state) == ("needs a human", State.SUBMITTED)
    assert "--keep-waiting" in (line.entry.attention or "")
    line = await sweep(workshop, wait=wait, on_deadline="cancel")
    assert (line.outcome, line.entry.state) == ("ended without a video", State.CANCELLED)
    assert workshop.emulator.books()["cancelled"] == 1


async def test_one_that_was_left_for_long_is_listed(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop(speed=0.01)
    await submitted(workshop, due=LONG_AGO)
    for _ in range(2):
        line = await sweep(workshop)
        assert line.outcome == "needs a human"
    async with workshop.ledger() as ledger:
        (row,) = await ledger.entries(attention=True)
        assert "has not ended by its deadline" in (row.attention or "")
        flagged = [step for step in await ledger.history(row.id) if "needs attention" in (step.detail or "")]
    assert len(flagged) == 1
    assert statuses(await workshop.run(a_shot())) == ["held"]
    assert workshop.emulator.books()["accepted"] == 1


async def test_one_that_ends_after_all_is_stored(workshop: Workshop) -> None:
    for operation in ("retrieve", "list"):
        workshop.emulator.add_fault(operation=operation, kind="unknown_status", times=None)
    await submitted(workshop, due=LONG_AGO)
    workshop.emulator.settle()
    assert (await sweep(workshop)).outcome == "needs a human"
    workshop.emulator.clear_faults()
    line = await sweep(workshop)
    assert (line.outcome, line.entry.state, line.entry.attention) == ("stored", State.STORED, None)
    assert workshop.paid == (1, 1)


async def test_a_provider_that_no_longer_answers_is_listed(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop(speed=0.01)
    await submitted(workshop, due=LONG_AGO)
    workshop.emulator.add_fault(operation="retrieve", kind="error_before", times=None)
    line = await sweep(workshop)
    assert line.outcome == "needs a human"
    assert "The last look" in (line.entry.attention or "")


async def test_a_dead_link_is_tried_again_for_a_time(workshop: Workshop) -> None:
    await completed(workshop, due=JUST_NOW)
    line = await sweep(workshop)
    assert (line.outcome, line.entry.state, line.entry.attention) == ("left for later", State.COMPLETED, None)
    workshop.emulator.clear_faults()
    assert (await sweep(workshop)).outcome == "stored"
    assert workshop.paid == (1, 1)


async def test_a_link_that_is_dead_for_long_is_listed(workshop: Workshop) -> None:
    await completed(workshop, due=LONG_AGO)
    line = await sweep(workshop)
    assert (line.outcome, line.entry.state) == ("needs a human", State.COMPLETED)
    assert "cannot be fetched" in (line.entry.attention or "")
    assert "--buy-again" in (line.entry.attention or "")
    workshop.emulator.clear_faults()
    async with workshop.ledger() as ledger:
        await ledger.unflag(line.entry.id)
    assert (await sweep(workshop)).outcome == "stored"


async def test_a_link_that_died_when_its_provider_said_is_listed_at_once(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop(link_ttl_seconds=0.001)
    await completed(workshop, due=-LONG_AGO)
    line = await sweep(workshop)
    assert (line.outcome, line.entry.state) == ("needs a human", State.COMPLETED)
    assert workshop.paid == (1, 1)
