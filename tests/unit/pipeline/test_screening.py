"""The local screen, before anything is spent: refused prompts are kept for review, and can be allowed."""

from __future__ import annotations

import pytest

from prefect_video import InvalidInput, Shot
from prefect_video.session import Settings
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
