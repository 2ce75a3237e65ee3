"""A prompt that a content policy stopped is paid at most once: not in one run, not by another, by the usage."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_video.ledger import State
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness

WORDS: list[dict[str, Any]] = [
    {"code": "OutputVideoSensitiveContentDetected", "message": "output video may contain sensitive information"},
    {"code": "content_filter", "message": "no"},
    {"code": "PROHIBITED_CONTENT", "message": "no"},
    {"code": "SAFETY.INPUT.TEXT", "message": "no"},
    {"code": "csam", "message": "no"},
    {"code": "error", "message": "Inhalt verstößt gegen unsere Richtlinien"},
    {"code": "sentinel_block", "message": "Hmmm something didn't look right with your request."},
    {"code": "generation_failed", "message": "Your request was blocked by our moderation system."},
]


@pytest.mark.parametrize("words", WORDS, ids=lambda words: str(words["code"]))
async def test_one_blocked_generation_is_billed_once_over_two_runs(
    harness: RecoveryHarness, words: dict[str, Any]
) -> None:
    harness.emulator.add_fault(operation="submit", kind="blocked", times=None, **words)
    for _ in range(2):
        report = await harness.run(film(a_shot(), max_attempts=3))
        assert statuses(report) == ["failed"]
        message = str(report.shots[0].error)
        assert "run again" not in message.lower()
        assert "prefect-video review" in message
    assert harness.paid == (1, 1)
    async with harness.ledger() as ledger:
        assert {job.shot.id for job in await ledger.reviews.refused()} == {"shot-1"}
        assert await ledger.jobs.unfinished() == []


async def test_the_same_words_in_another_form_are_the_same_prompt(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="submit", kind="blocked")
    await harness.run(film(a_shot(prompt="a Red balloon")))
    again = a_shot(2, prompt="a red\n balloon ", duration=2)
    assert statuses(await harness.run(film(again, a_shot(3, prompt="a blue balloon")))) == ["failed", "stored"]
    assert harness.paid == (2, 2)


async def test_a_human_may_have_it_sent_once_more(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="submit", kind="blocked", times=2)
    await harness.run(a_shot())
    report = await harness.run(a_shot())
    async with harness.ledger() as ledger:
        fingerprint = (await harness.rows())[0].fingerprint
        assert f"review --allow {fingerprint}" in str(report.shots[0].error)
        await ledger.reviews.allow(fingerprint, "the client's own brand")
    for _ in range(3):
        assert statuses(await harness.run(a_shot())) == ["failed"]
    assert harness.paid == (2, 2)


async def test_a_refusal_by_policy_is_not_sent_again_either(harness: RecoveryHarness) -> None:
    for _ in range(2):
        report = await harness.run(a_shot(prompt="[policy] a cat"))
        assert "run again" not in str(report.shots[0].error).lower()
    assert harness.emulator.usage()["submitted"] == 1


async def test_a_run_that_waits_for_a_blocked_row_of_another_run_buys_nothing(open_harness: OpenHarness) -> None:
    harness = open_harness(speed=20)
    harness.emulator.add_fault(operation="submit", kind="blocked", times=None)
    await harness.interrupt(a_shot(), "submitted")
    harness.emulator.wait_until_idle()
    await harness.collect()
    assert statuses(await harness.run(a_shot())) == ["failed"]
    assert harness.paid == (1, 1)
    assert {job.state for job in await harness.rows()} == {State.FAILED, State.RELEASED}


async def test_of_many_takes_in_the_queue_those_after_the_first_are_not_sent(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="submit", kind="blocked", times=None)
    report = await harness.run(a_shot(takes=5), max_in_flight=1)
    assert statuses(report) == ["failed"] * 5
    assert harness.paid == (1, 1)
