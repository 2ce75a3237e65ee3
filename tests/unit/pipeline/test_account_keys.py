"""Rows that were sent with one key, and a run with another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from prefect_video.ledger import Budget, ClaimBatch, Job, State
from prefect_video.ledger.claims import Claims
from prefect_video.pipeline.cancel import cancel_each
from prefect_video.pipeline.steps import build_project_job_requests
from prefect_video.providers.sora.provider import SoraProvider
from tests.support.recovery import RecoveryHarness, a_shot, collect_with, film, statuses
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
        assert [line.outcome for line in await collect_with(session)] == ["is held"]
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


async def test_a_reservation_is_made_anew_under_the_key_that_sends_it(harness: RecoveryHarness) -> None:
    """The limits of the account that pays must have seen it; the ledger shows both, and why."""
    await harness.interrupt(a_shot(), "claimed")
    before = await harness.row()
    assert before.state is State.RESERVED
    assert statuses(await harness.run(a_shot(), kind=Other)) == ["stored"]
    released, stored = await harness.rows()
    assert (released.id, released.account, released.state) == (before.id, before.account, State.RELEASED)
    assert "another account" in str(released.error_message)
    assert stored.state is State.STORED
    assert stored.account != before.account
    assert harness.paid == (1, 1)


async def test_a_reservation_that_was_joined_keeps_to_the_limits_of_the_key_that_would_send_it(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_video = [Budget(scope="plan", limit_videos=1)]
    assert statuses(await harness.run(a_shot(1), kind=Other)) == ["stored"]
    claim = Claims.claim
    claimed = asyncio.Event()

    async def claim_and_signal(ledger: Claims, *arguments: Any, **options: Any) -> ClaimBatch:
        batch = await claim(ledger, *arguments, **options)
        claimed.set()
        return batch

    async with harness.session() as first:
        (reserved,) = (await first.ledger.claims.claim(await build_project_job_requests(first, film(a_shot(2))))).claims
        assert reserved.job is not None
        monkeypatch.setattr(Claims, "claim", claim_and_signal)
        joining = asyncio.create_task(harness.run(film(a_shot(2), over_budget="fit"), kind=Other, budgets=one_video))
        await claimed.wait()
        await first.ledger.claims.release_ownership([reserved.job.id])
        assert statuses(await joining) == ["over_budget"]
        assert (await first.ledger.jobs.get(reserved.job.id)).state is State.RELEASED
    assert harness.paid == (1, 1)


def unchanged(before: Job, after: Job) -> bool:
    ignored = {"owner", "updated_at", "flow_run_id"}
    return before.model_dump(exclude=ignored) == after.model_dump(exclude=ignored)
