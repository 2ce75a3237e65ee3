"""What is never done: every sweep applies the deadline, and in the end a human is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_video.ledger import State
from prefect_video.pipeline.collect import CollectedJob
from prefect_video.pipeline.steps.deadline import GRACE_PERIOD
from tests.support.recovery import RecoveryHarness, a_shot, collect_with, statuses
from tests.support.recovery_fixtures import OpenHarness

JUST_NOW = timedelta(seconds=1)
LONG_AGO = GRACE_PERIOD + timedelta(hours=1)


async def submitted(harness: RecoveryHarness, *, due: timedelta) -> None:
    """Leaves a generation at the provider that should have ended some time ago."""
    await harness.interrupt(a_shot(), "submitted")
    async with harness.ledger() as ledger:
        await ledger.jobs.set_deadline((await harness.row()).id, datetime.now(UTC) - due)


async def completed(harness: RecoveryHarness, *, due: timedelta) -> None:
    """Leaves a video at the provider whose link is dead indefinitely."""
    # Not 404, for which the file may only be late.
    harness.emulator.add_fault(operation="content", kind="expired_link", times=None)
    assert statuses(await harness.run(a_shot())) == ["failed"]
    async with harness.ledger() as ledger:
        await ledger.jobs.set_deadline((await harness.row()).id, datetime.now(UTC) - due)


async def sweep(harness: RecoveryHarness, *, wait: bool = False, **settings: Any) -> CollectedJob:
    async with harness.session(**settings) as session:
        (line,) = await collect_with(session, wait=wait)
    return line


@pytest.mark.parametrize("wait", [False, True])
async def test_a_sweep_applies_the_deadline(open_harness: OpenHarness, wait: bool) -> None:
    harness = open_harness(speed=0.01)
    await submitted(harness, due=JUST_NOW)
    line = await sweep(harness, wait=wait)
    assert (line.outcome, line.job.state, line.job.hold_reason) == ("left for later", State.SUBMITTED, None)
    line = await sweep(harness, wait=wait, on_deadline="hold")
    assert (line.outcome, line.job.state) == ("is held", State.SUBMITTED)
    assert "--keep-waiting" in (line.job.hold_reason or "")
    line = await sweep(harness, wait=wait, on_deadline="cancel")
    assert (line.outcome, line.job.state) == ("ended without a video", State.CANCELLED)
    assert harness.emulator.usage()["cancelled"] == 1


async def test_a_job_that_was_left_for_long_is_listed(open_harness: OpenHarness) -> None:
    harness = open_harness(speed=0.01)
    await submitted(harness, due=LONG_AGO)
    for _ in range(2):
        line = await sweep(harness)
        assert line.outcome == "is held"
    async with harness.ledger() as ledger:
        (job,) = await ledger.jobs.find(hold_reason=True)
        assert "has not ended by its deadline" in (job.hold_reason or "")
        flagged = [step for step in await ledger.jobs.history(job.id) if "is held" in (step.detail or "")]
    assert len(flagged) == 1
    assert statuses(await harness.run(a_shot())) == ["held"]
    assert harness.emulator.usage()["accepted"] == 1


async def test_a_generation_that_ends_after_all_is_stored(harness: RecoveryHarness) -> None:
    for operation in ("retrieve", "list"):
        harness.emulator.add_fault(operation=operation, kind="unknown_status", times=None)
    await submitted(harness, due=LONG_AGO)
    harness.emulator.wait_until_idle()
    assert (await sweep(harness)).outcome == "is held"
    harness.emulator.clear_faults()
    line = await sweep(harness)
    assert (line.outcome, line.job.state, line.job.hold_reason) == ("stored", State.STORED, None)
    assert harness.paid == (1, 1)


async def test_a_provider_that_no_longer_answers_is_listed(open_harness: OpenHarness) -> None:
    harness = open_harness(speed=0.01)
    await submitted(harness, due=LONG_AGO)
    harness.emulator.add_fault(operation="retrieve", kind="error_before", times=None)
    line = await sweep(harness)
    assert line.outcome == "is held"
    assert "The last look" in (line.job.hold_reason or "")


async def test_a_dead_link_is_tried_again_for_a_time(harness: RecoveryHarness) -> None:
    await completed(harness, due=JUST_NOW)
    line = await sweep(harness)
    assert (line.outcome, line.job.state, line.job.hold_reason) == ("left for later", State.COMPLETED, None)
    harness.emulator.clear_faults()
    assert (await sweep(harness)).outcome == "stored"
    assert harness.paid == (1, 1)


async def test_a_link_that_is_dead_for_long_is_listed(harness: RecoveryHarness) -> None:
    await completed(harness, due=LONG_AGO)
    line = await sweep(harness)
    assert (line.outcome, line.job.state) == ("is held", State.COMPLETED)
    assert "cannot be fetched" in (line.job.hold_reason or "")
    assert "--buy-again" in (line.job.hold_reason or "")
    harness.emulator.clear_faults()
    async with harness.ledger() as ledger:
        await ledger.jobs.unhold(line.job.id)
    assert (await sweep(harness)).outcome == "stored"


async def test_a_link_that_died_at_its_stated_time_is_listed_at_once(open_harness: OpenHarness) -> None:
    harness = open_harness(link_ttl_seconds=0.001)
    await completed(harness, due=-LONG_AGO)
    line = await sweep(harness)
    assert (line.outcome, line.job.state) == ("is held", State.COMPLETED)
    assert harness.paid == (1, 1)
