"""What exists decides who makes a shot, before price and health do: nothing is bought again at another account."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_video import Project
from prefect_video.emulator import Emulator
from prefect_video.errors import CircuitOpen, QuotaExhausted
from prefect_video.ledger import Entry, State
from prefect_video.pipeline.plan import plan_project
from prefect_video.pipeline.project_run import run_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.pipeline.steps import ClaimOptions, build_project_intents, claim_shots, poll, submit
from prefect_video.session.session import SessionEvent, Studio
from tests.support.routing import AUTO, House, open_house, project

SHORTER: dict[str, Any] = {"fallbacks": [{"duration": 1}]}


async def use_up(studio: Studio) -> None:
    """Its quota is used up, for a few hours."""
    await studio.ledger.record_quota(studio.provider.account.id, datetime.now(UTC) + timedelta(hours=5))


async def begin(studio: Studio, wanted: Project, *steps: Callable[[Studio, Entry], Awaitable[Entry]]) -> Entry:
    """A row of a run that died after some steps."""
    intents = await build_project_intents(studio, wanted, ClaimOptions(flow_run_id="dead"))
    (claim,) = await claim_shots(studio, intents, budgets=(), partial=False)
    assert claim.entry is not None
    entry = claim.entry
    for step in steps:
        entry = await step(studio, entry)
    await studio.ledger.let_go([claim.entry.id])
    return await studio.ledger.get(claim.entry.id)


async def hold(studio: Studio, entry: Entry) -> Entry:
    """Sent, not answered, and for a human to decide."""
    await studio.ledger.begin_submit(entry.id)
    await studio.ledger.record_unknown(entry.id, "no answer")
    return await studio.ledger.flag(entry.id, "look at the console")


def outcomes(report: ProjectReport) -> list[tuple[str, bool, str | None]]:
    return [(shot.status, shot.cached, shot.degraded) for shot in report.shots]


async def test_what_is_stored_is_found_though_its_account_is_unwell(house: House) -> None:
    wanted = project({}, {}, **AUTO)
    await house.make(wanted)
    await use_up(house.cheap)
    plan = await plan_project(house.dear, wanted, others=[house.cheap])
    assert [(shot.action, shot.provider) for shot in plan.shots] == [("cached", "cheap")] * 2
    assert outcomes(await house.make(wanted)) == [("stored", True, None)] * 2
    assert house.billed == (0, 2)


async def test_what_is_stored_is_found_though_a_cheaper_account_is_well_again(house: House) -> None:
    await use_up(house.cheap)
    await house.make(project({}, **AUTO))
    await house.cheap.ledger.record_quota(house.cheap.provider.account.id, datetime.now(UTC))
    assert outcomes(await house.make(project({}, {}, **AUTO))) == [("stored", True, None), ("stored", False, None)]
    assert house.billed == (1, 1)


async def test_a_stored_video_that_is_gone_is_fetched_again_where_it_was_made(house: House, tmp_path: Path) -> None:
    await use_up(house.cheap)
    await house.make(project({}, **AUTO))
    await house.cheap.ledger.record_quota(house.cheap.provider.account.id, datetime.now(UTC))
    for video in (tmp_path / "videos").glob("*/*.mp4"):
        video.unlink()
    plan = await plan_project(house.dear, project({}, **AUTO), others=[house.cheap])
    assert [(shot.action, shot.provider) for shot in plan.shots] == [("under_way", "dear")]
    made = await house.make(project({}, **AUTO))
    assert [(shot.status, shot.cached) for shot in made.shots] == [("stored", False)]
    assert house.billed == (1, 0)


async def test_what_is_under_way_is_carried_on_though_its_account_is_unwell(house: House) -> None:
    wanted = project({}, **AUTO)
    await begin(house.cheap, wanted, submit)
    await use_up(house.cheap)
    plan = await plan_project(house.dear, wanted, others=[house.cheap])
    assert [(shot.action, shot.provider) for shot in plan.shots] == [("under_way", "cheap")]
    assert outcomes(await house.make(wanted)) == [("stored", False, None)]
    assert house.accepted == (0, 1)


async def test_what_is_held_is_not_bought_at_another_account(house: House) -> None:
    wanted = project({}, **AUTO)
    entry = await begin(house.cheap, wanted, hold)
    await use_up(house.cheap)
    plan = await plan_project(house.dear, wanted, others=[house.cheap])
    assert [(shot.action, shot.provider, shot.entry_id) for shot in plan.shots] == [("held", "cheap", entry.id)]
    assert [shot.status for shot in (await house.make(wanted)).shots] == ["held"]
    assert house.accepted == (0, 0)


async def test_what_was_reserved_and_never_sent_may_go_elsewhere(house: House) -> None:
    await begin(house.cheap, project({}, **AUTO))
    await use_up(house.cheap)
    assert outcomes(await house.make(project({}, **AUTO))) == [("stored", False, "provider: cheap became dear")]
    assert house.accepted == (1, 0)
    assert await house.dear.ledger.unfinished() == []


async def test_a_video_that_is_stored_goes_before_one_that_is_under_way(house: House) -> None:
    wanted = project({}, **AUTO)
    await begin(house.cheap, wanted, submit)
    await run_project(house.dear, project({}))
    assert outcomes(await house.make(wanted)) == [("stored", True, None)]


@pytest.mark.parametrize("moment", ["before_send", "answered", "submitted", "completed", "downloaded", "published"])
async def test_a_run_that_died_is_paid_once_whatever_has_changed_since(
    tmp_path: Path, emulators: tuple[Emulator, Emulator], moment: SessionEvent
) -> None:
    """The cheap account is unwell before, and well again after, so that each run would choose another one."""
    wanted = project({}, **AUTO, fallbacks=[{"resolution": "720p"}])
    async with open_house(tmp_path, *emulators) as first:
        await use_up(first.cheap)

        def observer(told: SessionEvent, entry: Entry) -> None:
            if told == moment:
                dying.cancel()

        first.observe(observer)
        dying = asyncio.create_task(first.make(wanted))
        await asyncio.wait([dying])
        assert dying.cancelled()
    async with open_house(tmp_path, *emulators) as second:
        await second.cheap.ledger.record_quota(second.cheap.provider.account.id, datetime.now(UTC))
        assert [shot.status for shot in (await second.make(wanted)).shots] == ["stored"]
        assert await second.dear.ledger.unfinished() == []
        assert sum(second.accepted) == sum(second.billed) == 1


async def test_nothing_is_given_up_for_a_video_that_is_paid(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quota of requests may be used up as well, on a generation that was accepted long ago."""
    wanted = project({"duration": 2}, **SHORTER)
    entry = await begin(house.dear, wanted, submit, poll)
    assert entry.state is State.COMPLETED

    async def refuse(generation_id: str) -> Any:
        raise QuotaExhausted("429: too many requests", provider="dear")

    house.dear.fresh_generations.clear()
    with monkeypatch.context() as patched:
        patched.setattr(house.dear.provider, "retrieve", refuse)
        assert outcomes(await house.make(wanted)) == [("failed", False, None)]
    assert outcomes(await house.make(wanted)) == [("stored", False, None)]
    assert house.accepted == (1, 0)


async def refuse_once(house: House, monkeypatch: pytest.MonkeyPatch, *, at: int = 1) -> None:
    """The breaker of the dear account is open for one submit."""
    admit, asked = house.dear.breaker.admit, 0

    async def admit_others() -> bool:
        nonlocal asked
        asked += 1
        if asked == at:
            raise CircuitOpen("in trouble", provider="dear", retry_after=300)
        return await admit()

    monkeypatch.setattr(house.dear.breaker, "admit", admit_others)


async def test_a_fallback_that_is_under_way_is_carried_on(house: House) -> None:
    wanted = project({"duration": 2}, **SHORTER)
    await begin(house.dear, project({"duration": 1}), submit)
    assert outcomes(await house.make(wanted)) == [("stored", False, "duration: 2 became 1")]
    assert house.accepted == (1, 0)


async def test_a_fallback_that_is_stored_is_enough_for_its_own_run(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = project({"duration": 2}, **SHORTER)
    await refuse_once(house, monkeypatch)
    given_up = "duration: 2 became 1"
    assert outcomes(await house.make(wanted, flow_run_id="one")) == [("stored", False, given_up)]
    assert outcomes(await house.make(wanted, flow_run_id="one")) == [("stored", True, given_up)]
    assert house.accepted == (1, 0)
    assert outcomes(await house.make(wanted, flow_run_id="two")) == [("stored", False, None)]
    assert house.accepted == (2, 0)


async def test_the_same_words_of_another_shot_are_no_fallback(house: House) -> None:
    """A shorter shot of the project itself is under way; the longer one is made all the same."""
    both = project({"prompt": "a cat", "duration": 2}, {"prompt": "a cat", "duration": 1}, **SHORTER)
    shorter = project({"id": "s1", "prompt": "a cat", "duration": 1})
    await begin(house.dear, shorter, submit)
    assert outcomes(await house.make(both)) == [("stored", False, None)] * 2
    assert house.accepted == (2, 0)


async def test_what_is_given_up_keeps_no_budget(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a second attempt gives way, whose row the run did not begin with."""
    house.at_dear.add_fault(operation="submit", kind="generation_error")
    await refuse_once(house, monkeypatch, at=2)
    wanted = project({"duration": 2}, **SHORTER)
    assert outcomes(await house.make(wanted)) == [("stored", False, "duration: 2 became 1")]
    assert await house.dear.ledger.unfinished() == []


async def test_a_second_attempt_warns_of_its_budget(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.at_dear.add_fault(operation="submit", kind="generation_error")
    with caplog.at_level(logging.WARNING):
        report = await house.make(project({}, budget_videos=1))
    assert [shot.status for shot in report.shots] == ["stored"]
    assert [record.message for record in caplog.records if record.message.startswith("budget:")] == [
        "budget: project film: 1 of 1 video are paid or reserved"
    ] * 2
