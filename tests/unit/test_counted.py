"""Numbers of things in sentences."""

from __future__ import annotations

import pytest

from prefect_video._counted import counted


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 shots"), (1, "1 shot"), (2, "2 shots"), (999, "999 shots"), (2_000, "2,000 shots")]
)
def test_only_one_thing_is_in_the_singular(number: int, text: str) -> None:
    assert counted(number, "shot") == text
