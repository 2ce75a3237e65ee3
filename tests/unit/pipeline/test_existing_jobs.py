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
from prefect_video.ledger import AccountStatus, Job, State
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.plan import plan_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.pipeline.steps import ClaimOptions, build_project_job_requests, claim_shots, poll, submit
from prefect_video.session import Session, SessionEvent
from tests.support.records import begin_submit
from tests.support.routing import AUTO, RoutingHarness, open_routing, project

SHORTER: dict[str, Any] = {"fallbacks": [{"duration": 1}]}


async def use_up(session: Session) -> None:
    """Its quota is used up, for a few hours."""
    await session.ledger.accounts.record_quota(session.provider.account.id, datetime.now(UTC) + timedelta(hours=5))


async def begin(session: Session, wanted: Project, *steps: Callable[[Session, Job], Awaitable[Job]]) -> Job:
    """A row of a run that died after some steps."""
    job_requests = await build_project_job_requests(session, wanted, ClaimOptions(flow_run_id="dead"))
    (claim,) = await claim_shots(session, job_requests, budgets=(), partial=False)
    assert claim.job is not None
    job = claim.job
    for step in steps:
        job = await step(session, job)
    await session.ledger.claims.release_ownership([claim.job.id])
    return await session.ledger.jobs.get(claim.job.id)


async def hold(session: Session, job: Job) -> Job:
    """Sent, not answered, and for a human to decide."""
    await begin_submit(session.ledger, job.id)
    await session.ledger.jobs.record_unknown(job.id, "no answer")
    return await session.ledger.jobs.hold(job.id, "look at the console")


def outcomes(report: ProjectReport) -> list[tuple[str, bool, str | None]]:
    return [(shot.status, shot.cached, shot.degraded) for shot in report.shots]


async def test_what_is_stored_is_found_though_its_account_is_unwell(routing: RoutingHarness) -> None:
    wanted = project({}, {}, **AUTO)
    await routing.make(wanted)
    await use_up(routing.cheap)
    plan = await plan_project(routing.dear, wanted, others=[routing.cheap])
    assert [(shot.action, shot.provider) for shot in plan.shots] == [("cached", "cheap")] * 2
    assert outcomes(await routing.make(wanted)) == [("stored", True, None)] * 2
    assert routing.billed == (0, 2)


async def test_what_is_stored_is_found_though_a_cheaper_account_is_well_again(routing: RoutingHarness) -> None:
    await use_up(routing.cheap)
    await routing.make(project({}, **AUTO))
    await routing.cheap.ledger.accounts.record_quota(routing.cheap.provider.account.id, datetime.now(UTC))
    assert outcomes(await routing.make(project({}, {}, **AUTO))) == [("stored", True, None), ("stored", False, None)]
    assert routing.billed == (1, 1)


async def test_a_stored_video_that_is_gone_is_fetched_again_where_it_was_made(
    routing: RoutingHarness, tmp_path: Path
) -> None:
    await use_up(routing.cheap)
    await routing.make(project({}, **AUTO))
    await routing.cheap.ledger.accounts.record_quota(routing.cheap.provider.account.id, datetime.now(UTC))
    for video in (tmp_path / "videos").glob("*/*.mp4"):
        video.unlink()
    plan = await plan_project(routing.dear, project({}, **AUTO), others=[routing.cheap])
    assert [(shot.action, shot.provider) for shot in plan.shots] == [("in_progress", "dear")]
    made = await routing.make(project({}, **AUTO))
    assert [(shot.status, shot.cached) for shot in made.shots] == [("stored", False)]
    assert routing.billed == (1, 0)


async def test_what_is_in_progress_is_carried_on_though_its_account_is_unwell(routing: RoutingHarness) -> None:
    wanted = project({}, **AUTO)
    await begin(routing.cheap, wanted, submit)
    await use_up(routing.cheap)
    plan = await plan_project(routing.dear, wanted, others=[routing.cheap])
    assert [(shot.action, shot.provider) for shot in plan.shots] == [("in_progress", "cheap")]
    assert outcomes(await routing.make(wanted)) == [("stored", False, None)]
    assert routing.accepted == (0, 1)


async def test_what_is_held_is_not_bought_at_another_account(routing: RoutingHarness) -> None:
    wanted = project({}, **AUTO)
    job = await begin(routing.cheap, wanted, hold)
    await use_up(routing.cheap)
    plan = await plan_project(routing.dear, wanted, others=[routing.cheap])
    assert [(shot.action, shot.provider, shot.job_id) for shot in plan.shots] == [("held", "cheap", job.id)]
    assert [shot.status for shot in (await routing.make(wanted)).shots] == ["held"]
    assert routing.accepted == (0, 0)


async def test_what_was_reserved_and_never_sent_may_go_elsewhere(routing: RoutingHarness) -> None:
    await begin(routing.cheap, project({}, **AUTO))
    await use_up(routing.cheap)
    assert outcomes(await routing.make(project({}, **AUTO))) == [("stored", False, "provider: cheap became dear")]
    assert routing.accepted == (1, 0)
    assert await routing.dear.ledger.jobs.unfinished() == []


async def test_a_video_that_is_stored_goes_before_one_in_progress(routing: RoutingHarness) -> None:
    wanted = project({}, **AUTO)
    await begin(routing.cheap, wanted, submit)
    await run_project(routing.dear, project({}))
    assert outcomes(await routing.make(wanted)) == [("stored", True, None)]


@pytest.mark.parametrize("moment", ["before_send", "answered", "submitted", "completed", "downloaded", "published"])
async def test_a_run_that_died_is_paid_once_whatever_has_changed_since(
    tmp_path: Path, emulators: tuple[Emulator, Emulator], moment: SessionEvent
) -> None:
    """The cheap account is unwell before, and well again after, so that each run would choose another one."""
    wanted = project({}, **AUTO, fallbacks=[{"resolution": "720p"}])
    async with open_routing(tmp_path, *emulators) as first:
        await use_up(first.cheap)

        def observer(reported: SessionEvent, job: Job) -> None:
            if reported == moment:
                dying.cancel()

        first.observe(observer)
        dying = asyncio.create_task(first.make(wanted))
        await asyncio.wait([dying])
        assert dying.cancelled()
    async with open_routing(tmp_path, *emulators) as second:
        await second.cheap.ledger.accounts.record_quota(second.cheap.provider.account.id, datetime.now(UTC))
        assert [shot.status for shot in (await second.make(wanted)).shots] == ["stored"]
        assert await second.dear.ledger.jobs.unfinished() == []
        assert sum(second.accepted) == sum(second.billed) == 1


async def test_nothing_is_given_up_for_a_video_that_is_paid(
    routing: RoutingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota of requests may be used up as well, on a generation that was accepted long ago."""
    wanted = project({"duration": 2}, **SHORTER)
    job = await begin(routing.dear, wanted, submit, poll)
    assert job.state is State.COMPLETED

    async def refuse(generation_id: str) -> Any:
        raise QuotaExhausted("429: too many requests", provider="dear")

    routing.dear.fresh_generations.clear()
    with monkeypatch.context() as patched:
        patched.setattr(routing.dear.provider, "retrieve", refuse)
        assert outcomes(await routing.make(wanted)) == [("failed", False, None)]
    assert outcomes(await routing.make(wanted)) == [("stored", False, None)]
    assert routing.accepted == (1, 0)


async def refuse_once(routing: RoutingHarness, monkeypatch: pytest.MonkeyPatch, *, at: int = 1) -> None:
    """The breaker of the dear account is open for one submit."""
    breaker, calls = routing.dear.breaker, 0
    admit, admit_trial = breaker.admit, breaker.before_submit

    def is_due() -> bool:
        return calls == at

    def admit_others(status: AccountStatus) -> None:
        nonlocal calls
        calls += 1
        if is_due():
            raise CircuitOpen("in trouble", provider="dear", retry_after=300)
        admit(status)

    async def refuse_trial() -> bool:
        if is_due():
            raise CircuitOpen("in trouble", provider="dear", retry_after=300)
        return await admit_trial()

    monkeypatch.setattr(breaker, "admit", admit_others)
    monkeypatch.setattr(breaker, "before_submit", refuse_trial)


async def test_a_fallback_that_is_in_progress_is_carried_on(routing: RoutingHarness) -> None:
    wanted = project({"duration": 2}, **SHORTER)
    await begin(routing.dear, project({"duration": 1}), submit)
    assert outcomes(await routing.make(wanted)) == [("stored", False, "duration: 2 became 1")]
    assert routing.accepted == (1, 0)


async def test_a_fallback_that_is_stored_is_enough_for_its_own_run(
    routing: RoutingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = project({"duration": 2}, **SHORTER)
    await refuse_once(routing, monkeypatch)
    given_up = "duration: 2 became 1"
    assert outcomes(await routing.make(wanted, flow_run_id="one")) == [("stored", False, given_up)]
    assert outcomes(await routing.make(wanted, flow_run_id="one")) == [("stored", True, given_up)]
    assert routing.accepted == (1, 0)
    assert outcomes(await routing.make(wanted, flow_run_id="two")) == [("stored", False, None)]
    assert routing.accepted == (2, 0)


async def test_the_same_words_of_another_shot_are_no_fallback(routing: RoutingHarness) -> None:
    """A shorter shot of the project itself is in progress; the longer one is made all the same."""
    both = project({"prompt": "a cat", "duration": 2}, {"prompt": "a cat", "duration": 1}, **SHORTER)
    shorter = project({"id": "s1", "prompt": "a cat", "duration": 1})
    await begin(routing.dear, shorter, submit)
    assert outcomes(await routing.make(both)) == [("stored", False, None)] * 2
    assert routing.accepted == (2, 0)


async def test_what_is_given_up_keeps_no_budget(routing: RoutingHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a second attempt gives way, whose row the run did not begin with."""
    routing.at_dear.add_fault(operation="submit", kind="generation_error")
    await refuse_once(routing, monkeypatch, at=2)
    wanted = project({"duration": 2}, **SHORTER)
    assert outcomes(await routing.make(wanted)) == [("stored", False, "duration: 2 became 1")]
    assert await routing.dear.ledger.jobs.unfinished() == []


async def test_a_second_attempt_warns_of_its_budget(routing: RoutingHarness, caplog: pytest.LogCaptureFixture) -> None:
    routing.at_dear.add_fault(operation="submit", kind="generation_error")
    with caplog.at_level(logging.WARNING):
        report = await routing.make(project({}, budget_videos=1))
    assert [shot.status for shot in report.shots] == ["stored"]
    assert [record.message for record in caplog.records if record.message.startswith("budget:")] == [
        "budget: project film: 1 of 1 video are paid or reserved"
    ] * 2
