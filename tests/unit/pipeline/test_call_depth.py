"""How deep the paid request stands in the code, and how often one shot reads the ledger."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

import prefect_video
from prefect_video.ledger.account_limits import AccountLimits
from prefect_video.ledger.jobs import Jobs
from prefect_video.ledger.prompt_reviews import PromptReviews
from prefect_video.pipeline.entry_points import run_project
from tests.support.recovery import RecoveryHarness, a_shot, as_project, statuses

PACKAGE = Path(prefect_video.__file__).parent
DEEPEST = 9
"""Frames of this package between the task of a shot and the request that pays."""


def own_frames() -> list[str]:
    """The functions of this package that are on the stack now, the outermost first."""
    frames = []
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if Path(code.co_filename).is_relative_to(PACKAGE):
            frames.append(code.co_qualname)
        frame = frame.f_back  # type: ignore[assignment]
    return frames[::-1]


async def test_the_request_that_pays_is_few_calls_deep(harness: RecoveryHarness) -> None:
    stacks: list[list[str]] = []

    async def note(request: httpx.Request) -> None:
        if request.method == "POST":
            stacks.append(own_frames())

    async with harness.session() as session:
        session.provider._provider._api._client.event_hooks["request"].append(note)  # type: ignore[attr-defined]
        assert statuses(await run_project(session, as_project(a_shot()))) == ["stored"]
    (stack,) = stacks
    assert stack[0] == "ProjectRun._run_take", "the shot's own task"
    assert "ApiClient.send_once" in stack
    assert len(stack) <= DEEPEST, stack
    assert harness.paid == (1, 1)


async def test_a_shot_reads_its_row_again_only_where_time_has_passed(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(part: type[Jobs] | type[AccountLimits] | type[PromptReviews], name: str) -> Any:
        method = getattr(part, name)

        async def call(ledger: Any, *given: Any, **named: Any) -> Any:
            calls[name] += 1
            return await method(ledger, *given, **named)

        return call

    async with harness.session() as session:
        for name in ("get", "assign_account", "record_submitted", "record_completed", "record_stored"):
            monkeypatch.setattr(Jobs, name, counted(Jobs, name))
        monkeypatch.setattr(AccountLimits, "acquire_slot", counted(AccountLimits, "acquire_slot"))
        monkeypatch.setattr(PromptReviews, "get_with_block", counted(PromptReviews, "get_with_block"))
        assert statuses(await run_project(session, as_project(a_shot()))) == ["stored"]
        expected = {
            # Before the send: a slot may take minutes.
            "get_with_block": 1,
            "acquire_slot": 1,
            "record_submitted": 1,
            "record_completed": 1,
            "record_stored": 1,
        }
        assert calls == expected
        calls.clear()
        # Before the publication too, where the download has taken longer than this.
        monkeypatch.setattr(import_module("prefect_video.pipeline.steps.store"), "FRESH", timedelta(0))
        assert statuses(await run_project(session, as_project(a_shot(2)))) == ["stored"]
        assert calls == {**expected, "get": 1}
