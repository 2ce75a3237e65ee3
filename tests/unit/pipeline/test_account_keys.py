"""Rows that were sent with one key, and a run with another."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_video.ledger import Job, State
from prefect_video.pipeline.cancel import cancel_each
from prefect_video.providers.sora.provider import SoraProvider
from tests.support.recovery import RecoveryHarness, a_shot, collect_with, statuses
from tests.support.recovery_fixtures import OpenHarness

KEYS = ("sk-emulator", "sk-another-one")


class Other(SoraProvider):
    """The same server with the other key."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "api_key": KEYS[1]})


@pytest.fixture
def harness(open_harness: OpenHarness) -> RecoveryHarness:
    return open_harness(keys=KEYS, speed=20)


@pytest.mark.parametrize("on_lost", ["hold", "resubmit"])
async def test_what_another_key_does_not_know_is_not_lost(harness: RecoveryHarness, on_lost: str) -> None:
    await harness.interrupt(a_shot(), "submitted")
    before = await harness.row()
    report = await harness.run(a_shot(), kind=Other, on_lost=on_lost)
    assert statuses(report) == ["held"]
    assert before.account in str(report.shots[0].error)
    assert unchanged(before, await harness.row())
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


async def test_a_finished_video_is_not_expired_for_another_key(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "completed")
    before = await harness.row()
    assert statuses(await harness.run(a_shot(), kind=Other)) == ["held"]
    assert unchanged(before, await harness.row())


async def test_another_key_neither_cancels_nor_collects(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "submitted")
    before = await harness.row()
    async with harness.session(kind=Other) as session:
        assert [line.outcome for line in await collect_with(session)] == ["needs a human"]
        (refused,) = await cancel_each(session, [before])
    assert "prefect-video resolve" in str(refused)
    assert unchanged(before, await harness.row())


async def test_another_accounts_list_neither_proves_nor_finds(open_harness: OpenHarness) -> None:
    harness = open_harness(keys=KEYS, echo_metadata=False)
    await harness.interrupt(a_shot(), "before_send")
    before = await harness.row()
    assert statuses(await harness.run(a_shot(), kind=Other, settle_seconds=0)) == ["held"]
    after = await harness.row()
    assert (after.state, after.generation_id) == (before.state, None)


async def test_a_row_that_was_never_sent_is_booked_under_the_key_that_sends_it(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "claimed")
    before = await harness.row()
    assert before.state is State.RESERVED
    assert statuses(await harness.run(a_shot(), kind=Other)) == ["stored"]
    after = await harness.row()
    assert after.account != before.account
    assert harness.paid == (1, 1)


def unchanged(before: Job, after: Job) -> bool:
    aside = {"owner", "updated_at", "flow_run_id"}
    return before.model_dump(exclude=aside) == after.model_dump(exclude=aside)
