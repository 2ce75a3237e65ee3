"""The local screen."""

import pytest

from prefect_video import InvalidInput, PromptBlocked, Shot
from prefect_video.limits.prompt_screen import PromptScreen

SHOT = Shot(id="a", prompt="A red Balloon")


async def test_nothing_is_screened_by_default() -> None:
    await PromptScreen().check(SHOT)


async def test_patterns_match_anywhere_without_case_and_name_shot_and_reason() -> None:
    with pytest.raises(PromptBlocked, match=r"shot 'a'.*matches the pattern 'balloon'"):
        await PromptScreen(patterns=("car", "balloon")).check(SHOT)


async def test_length_and_rules_of_ones_own() -> None:
    with pytest.raises(PromptBlocked, match="13 characters and 5 are allowed"):
        await PromptScreen(longest=5).check(SHOT)

    async def no_red(shot: Shot) -> str | None:
        return "no red" if "red" in shot.prompt else None

    with pytest.raises(PromptBlocked, match="no red"):
        await PromptScreen(rule=no_red).check(SHOT)
    with pytest.raises(PromptBlocked, match="never"):
        await PromptScreen(rule=lambda _: "never").check(SHOT)
    await PromptScreen(rule=lambda _: None).check(SHOT)


def test_a_pattern_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(InvalidInput, match="not a regular expression"):
        PromptScreen(patterns=("(",))
