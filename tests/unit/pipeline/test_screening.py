"""The local screen, before anything is spent: refused prompts are kept for review, and can be allowed."""

from __future__ import annotations

import pytest

from prefect_video import InvalidInput, Shot
from prefect_video.ledger import Job
from prefect_video.session import SessionEvent, Settings
from tests.support.recovery import a_shot, film
from tests.support.recovery_fixtures import OpenHarness


def no_cats(shot: Shot) -> str | None:
    """A rule of one's own."""
    return "no cats" if "cat" in shot.prompt else None


async def test_a_screened_prompt_costs_nothing_is_kept_for_review_and_can_be_allowed(
    open_harness: OpenHarness,
) -> None:
    harness = open_harness()
    wanted = film(a_shot(1), a_shot(2, prompt="a very bad word"))
    report = await harness.run(wanted, screen_patterns=("bad word",))
    assert [shot.status for shot in report.shots] == ["stored", "failed"]
    assert "bad word" in str(report.shots[1].error)
    assert harness.paid == (1, 1)
    async with harness.ledger() as ledger:
        [kept] = await ledger.reviews.refused()
        assert (kept.shot.prompt, kept.error_type) == ("a very bad word", "PromptBlocked")
        assert await ledger.jobs.unfinished() == []
        await ledger.reviews.allow(kept.fingerprint, "it is a quotation")
    report = await harness.run(wanted, screen_patterns=("bad word",))
    assert [shot.status for shot in report.shots] == ["stored", "stored"]
    assert harness.paid == (2, 2)


async def test_a_rule_of_ones_own_is_named_in_the_environment(
    open_harness: OpenHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_VIDEO_SCREEN_RULE", "tests.unit.pipeline.test_screening:no_cats")
    harness = open_harness()
    report = await harness.run(film(a_shot(1, prompt="a cat")))
    assert "no cats" in str(report.shots[0].error)
    assert harness.paid == (0, 0)


def test_a_rule_that_does_not_exist_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_VIDEO_SCREEN_RULE", "no.such:rule")
    with pytest.raises(InvalidInput, match="PREFECT_VIDEO_SCREEN_RULE"):
        Settings.from_environment()


async def test_a_project_is_screened_whole_before_anything_is_sent(open_harness: OpenHarness) -> None:
    harness = open_harness()
    screened: list[str] = []
    sent: list[int] = []

    async def note(shot: Shot) -> str | None:
        screened.append(shot.id)
        return "no dogs" if "dog" in shot.prompt else None

    def observe(event: SessionEvent, job: Job) -> None:
        if event is SessionEvent.BEFORE_SEND:
            sent.append(len(screened))

    wanted = film(*(a_shot(number) for number in range(1, 6)), a_shot(6, prompt="a dog"))
    report = await harness.run(wanted, screen_rule=note, observer=observe)
    assert [shot.status for shot in report.shots] == ["stored"] * 5 + ["failed"]
    assert sorted(screened) == sorted(shot.id for shot in wanted.shots), "each once"
    assert sent == [6] * 5, "all prompts were screened before the first shot was sent"
    assert harness.paid == (5, 5)


async def test_a_rule_that_fails_for_one_shot_fails_that_shot_alone(open_harness: OpenHarness) -> None:
    harness = open_harness()

    def fail_for_dogs(shot: Shot) -> str | None:
        if "dog" in shot.prompt:
            raise ZeroDivisionError("no dogs")
        return None

    report = await harness.run(film(a_shot(1), a_shot(2, prompt="a dog")), screen_rule=fail_for_dogs)
    assert [shot.status for shot in report.shots] == ["stored", "failed"]
    assert "no dogs" in str(report.shots[1].error)
    assert harness.paid == (1, 1)
    async with harness.ledger() as ledger:
        assert await ledger.jobs.unfinished() == []


async def test_a_further_attempt_passes_the_screen_too(open_harness: OpenHarness) -> None:
    harness = open_harness()
    screened: list[str] = []

    def note(shot: Shot) -> str | None:
        screened.append(shot.id)
        return "once is enough" if len(screened) > 1 else None

    report = await harness.run(film(a_shot(1, prompt="[fail] a boat")), screen_rule=note)
    assert "once is enough" in str(report.shots[0].error)
    assert len(screened) == 2
    assert harness.emulator.usage()["submitted"] == 1
