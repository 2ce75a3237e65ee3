"""Generations that fail, are refused, are denied or end late."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from prefect_video.ledger import Budget, State
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness


async def test_a_failure_at_once_is_a_new_attempt_in_a_row_of_its_own(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="submit", kind="generation_error")
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert [(job.attempt, job.state, job.actual_usd) for job in await harness.rows()] == [
        (1, State.FAILED, Decimal(0)),
        (2, State.STORED, Decimal("0.3")),
    ]
    assert harness.paid == (2, 1)


@pytest.mark.parametrize("flow_run_id", ["run-1", None])
async def test_attempts_are_limited(harness: RecoveryHarness, flow_run_id: str | None) -> None:
    project = film(a_shot(prompt="a cat [fail]"), a_shot(2), max_attempts=3)
    report = await harness.run(project, flow_run_id=flow_run_id)
    assert statuses(report) == ["failed", "stored"]
    failed = [job for job in await harness.rows() if job.state is State.FAILED]
    assert [job.attempt for job in failed] == [1, 2, 3]
    assert harness.paid == (4, 1)
    async with harness.ledger() as ledger:
        (standing,) = await ledger.spend.budget_usage(
            [Budget(scope="project")], project="film", account=failed[0].account
        )
    assert (standing.spent_usd, standing.reserved_usd, standing.videos) == (Decimal("0.3"), 0, 1)


async def test_a_run_that_is_repeated_under_its_own_id_does_not_start_counting_anew(harness: RecoveryHarness) -> None:
    project = film(a_shot(prompt="a cat [fail]"))
    for _ in range(2):
        assert statuses(await harness.run(project, flow_run_id="run-1")) == ["failed"]
    assert harness.paid == (2, 0)


async def test_a_policy_refusal_is_never_repeated_and_kept_for_review(harness: RecoveryHarness) -> None:
    report = await harness.run(film(a_shot(prompt="a cat [policy]"), a_shot(2)))
    assert statuses(report) == ["failed", "stored"]
    usage = harness.emulator.usage()
    assert (usage["submitted"], usage["refused"]) == (2, 1)
    async with harness.ledger() as ledger:
        (refused,) = await ledger.reviews.refused()
        assert refused.shot.prompt == "a cat [policy]"
        assert "policy" in str(refused.error_message)
        assert not await ledger.jobs.unfinished()


async def test_too_many_requests_are_sent_again_after_the_wait_that_the_body_names(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="submit", kind="rate_limited", retry_after=0.4, times=2)
    began = time.monotonic()
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert time.monotonic() - began >= 0.8
    assert harness.paid == (1, 1)
    assert harness.emulator.usage()["submitted"] == 3


async def test_an_account_that_is_full_is_waited_for(open_harness: OpenHarness) -> None:
    harness = open_harness(capacity=2, retry_after_seconds=0.05)
    report = await harness.run(film(*(a_shot(n) for n in range(6))))
    assert statuses(report) == ["stored"] * 6
    assert harness.paid == (6, 6)
    assert harness.emulator.usage()["peak_concurrency"] <= 2


async def test_a_generation_that_is_denied_for_long_is_lost_and_held(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="retrieve", kind="not_found", times=None)
    report = await harness.run(a_shot())
    assert statuses(report) == ["held"]
    harness.emulator.clear_faults()
    for _ in range(2):
        report = await harness.run(a_shot())
        assert statuses(report) == ["held"]
        assert "--buy-again" in str(report.shots[0].error)
    assert harness.paid == (1, 1)
    job = await harness.row()
    assert job.state is State.LOST
    async with harness.ledger() as ledger:
        await ledger.jobs.unhold(job.id)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (2, 2)


async def test_a_generation_that_is_denied_for_a_while_is_no_loss(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="retrieve", kind="not_found", times=3)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


@pytest.mark.parametrize("kind", ["error_before", "reset_before", "wrong_content", "unknown_status", "truncated"])
async def test_nonsense_while_polling_does_not_end_the_wait(harness: RecoveryHarness, kind: str) -> None:
    harness.emulator.add_fault(operation="retrieve", kind=kind, times=2)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


async def test_what_ended_long_before_it_is_taken_up_again_is_fetched(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "submitted")
    job = await harness.row()
    async with harness.ledger() as ledger:
        await ledger.jobs.set_deadline(job.id, datetime.now(UTC) - timedelta(hours=1))
    harness.emulator.wait_until_idle()
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


async def test_a_deadline_leaves_the_generation_for_later(open_harness: OpenHarness) -> None:
    harness = open_harness(speed=8)
    report = await harness.run(a_shot(), deadline_seconds=0.1)
    assert statuses(report) == ["held"]
    assert (await harness.row()).state is State.SUBMITTED
    harness.emulator.wait_until_idle()
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)
