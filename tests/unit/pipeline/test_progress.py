"""What a run shows while nothing seems to happen."""

from __future__ import annotations

import pytest

from prefect_video.cli.progress import ProgressTable
from tests.support.recovery import RecoveryHarness, a_shot
from tests.unit.pipeline.test_reports import fill_disk


async def states(harness: RecoveryHarness) -> list[str]:
    """What a board shows of a run of one shot, each state once."""
    seen: list[str] = []
    board = ProgressTable()
    board.on_change = lambda name, line: seen.append(line.state)
    await harness.run(a_shot(), observer=board)
    return seen


async def test_an_unanswered_submit_is_shown(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="submit", kind="reset_after")
    assert "asking the provider whether it was accepted" in await states(harness)


async def test_a_store_that_fails_is_shown(harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch)
    assert (await states(harness))[-1] == "the store fails, it is tried again for a while"
