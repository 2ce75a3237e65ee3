"""Shots that continue others: claimed when these are stored, within a reservation made at the start."""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urlsplit

import av
import pytest
from PIL import Image, ImageChops, ImageStat

from prefect_video.errors import BudgetExceeded, InvalidInput
from prefect_video.ledger import Budget, Job, State, is_late
from prefect_video.pipeline import ShotReport, plan_project, run_project
from prefect_video.pipeline.approval import choose_take, drop_shot, list_takes, redo_shot
from prefect_video.pipeline.cancel import cancel
from prefect_video.projects import Project
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.session import SessionEvent
from prefect_video.shots import Shot
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import SLOW, OpenHarness
from tests.support.routing import RoutingHarness, project

PRICE = Decimal("0.30")


def chain(length: int = 3, **options: object) -> Project:
    """Build a project whose shots continue each other, and one shot beside them."""
    shots = [
        a_shot(number, continue_from=f"shot-{number - 1}" if number > 1 else None) for number in range(1, length + 1)
    ]
    return film(*shots, a_shot(9), **options)


async def test_a_chain_is_paid_once_a_shot_and_costs_nothing_again(harness: RecoveryHarness) -> None:
    project = chain(budget_usd=4 * PRICE)
    assert statuses(await harness.run(project)) == ["stored"] * 4
    assert harness.paid == (4, 4)
    again = await harness.run(project)
    assert [shot.cached for shot in again.shots] == [True] * 4
    assert harness.paid == (4, 4)
    rows = {row.shot.id: row for row in await harness.rows()}
    assert len(await harness.rows()) == 4
    first = rows["shot-1"].asset
    assert first is not None
    assert rows["shot-2"].shot.first_frame == f"last-frame:{first.sha256}"


async def test_the_whole_chain_is_reserved_before_anything_is_sent(harness: RecoveryHarness) -> None:
    with pytest.raises(BudgetExceeded, match=r"\$1.20 asked"):
        await harness.run(chain(budget_usd=4 * PRICE - Decimal("0.01")))
    assert harness.emulator.usage()["submitted"] == 0
    assert await harness.rows() == []


async def test_of_two_projects_the_one_that_has_reserved_gets_the_last_dollar(open_harness: OpenHarness) -> None:
    """The money of a shot that is claimed late is not there for another run that comes in between."""
    harness = open_harness(**SLOW)
    refused: list[BaseException] = []
    rivals: list[asyncio.Task[None]] = []

    async def compete() -> None:
        try:
            await harness.run(film(a_shot(7), name="rival"), budgets=month)
        except BudgetExceeded as error:
            refused.append(error)
        harness.emulator.change_speed(500)

    def observer(event: SessionEvent, job: Job) -> None:
        if event is SessionEvent.SUBMITTED and job.shot.id == "shot-1":
            rivals.append(asyncio.get_running_loop().create_task(compete()))

    month = [Budget(scope="month", limit_usd=3 * PRICE)]
    assert statuses(await harness.run(chain(2), observer=observer, budgets=month)) == ["stored"] * 3
    await asyncio.gather(*rivals)
    assert len(refused) == 1
    assert harness.paid == (3, 3)


async def test_a_failed_shot_fails_those_that_continue_it_and_frees_their_money(harness: RecoveryHarness) -> None:
    shots = (
        a_shot(1, prompt="a cat [fail]"),
        a_shot(2, continue_from="shot-1", takes=2),
        a_shot(3, continue_from="shot-2"),
        a_shot(4),
    )
    report = await harness.run(film(*shots, budget_usd=5 * PRICE, max_attempts=1))
    assert statuses(report) == ["failed", "skipped", "skipped", "skipped", "stored"]
    assert report.shots[1].error == "it depends on 'shot-1', which failed"
    assert {row.state for row in await harness.rows() if is_late(row.fingerprint)} == {State.RELEASED}
    assert harness.paid == (2, 1)


async def test_an_interrupted_run_leaves_no_late_reservation(harness: RecoveryHarness) -> None:
    await harness.interrupt(chain(2), SessionEvent.SUBMITTED)
    assert {row.state for row in await harness.rows() if is_late(row.fingerprint)} == {State.RELEASED}
    assert statuses(await harness.run(chain(2))) == ["stored"] * 3
    assert harness.paid == (3, 3)


async def test_what_is_cancelled_before_it_is_claimed_is_not_bought(open_harness: OpenHarness) -> None:
    harness = open_harness(**SLOW)
    cancelling: list[asyncio.Task[None]] = []

    async def cancel_late() -> None:
        async with harness.session() as session:
            for job in await session.ledger.jobs.unfinished():
                if is_late(job.fingerprint):
                    await cancel(session, job.id)
        harness.emulator.change_speed(500)

    def observer(event: SessionEvent, job: Job) -> None:
        if event is SessionEvent.SUBMITTED and job.shot.id == "shot-1":
            cancelling.append(asyncio.get_running_loop().create_task(cancel_late()))

    report = await harness.run(film(a_shot(1), a_shot(2, continue_from="shot-1")), observer=observer)
    assert statuses(report) == ["stored", "cancelled"]
    assert harness.paid == (1, 1)


async def test_two_runs_of_one_project_at_once_pay_once(harness: RecoveryHarness) -> None:
    project = chain(budget_usd=4 * PRICE)
    reports = await asyncio.gather(*(harness.run(project) for _ in range(2)))
    assert [statuses(report) for report in reports] == [["stored"] * 4] * 2
    assert harness.paid == (4, 4)


async def test_what_continues_a_shot_left_at_the_provider_waits_for_a_later_run(harness: RecoveryHarness) -> None:
    async with harness.session() as session:
        report = await run_project(session, chain(2), wait=False)
    assert statuses(report) == ["in_flight", "waiting", "in_flight"]
    assert "waits for 'shot-1'" in (report.shots[1].error or "")
    assert not report.failures
    await harness.collect(wait=True)
    assert statuses(await harness.run(chain(2))) == ["stored"] * 3
    assert harness.paid == (3, 3)


async def test_a_plan_says_what_is_claimed_later(harness: RecoveryHarness) -> None:
    async with harness.session() as session:
        plan = await plan_project(session, chain(budget_usd=4 * PRICE))
        assert (plan.cost_usd, plan.fits) == (4 * PRICE, True)
        assert plan.later == {"shot-1": PRICE, "shot-2": PRICE}
        assert not (await plan_project(session, chain(budget_usd=3 * PRICE))).fits
        await run_project(session, film(a_shot(1)))
        plan = await plan_project(session, chain(budget_usd=4 * PRICE))
        assert [shot.action for shot in plan.shots] == ["cached", "generate", "generate", "generate"]
        assert plan.later == {"shot-2": PRICE}
        await run_project(session, chain())
        assert {shot.action for shot in (await plan_project(session, chain())).shots} == {"cached"}


async def test_an_account_that_takes_no_first_frame_is_refused_before_anything_is_paid(
    harness: RecoveryHarness,
) -> None:
    def open_plan(**options: Any) -> SoraProvider:
        return SoraProvider(**{**options, "plan": "api-tier-1"})

    project = film(a_shot(1, resolution="720p"), a_shot(2, resolution="720p", continue_from="shot-1"))
    with pytest.raises(InvalidInput, match="shot 'shot-2': first_frame"):
        await harness.run(project, kind=open_plan)
    assert harness.emulator.usage()["submitted"] == 0


async def test_a_continuation_begins_with_the_last_frame_of_what_it_continues(open_harness: OpenHarness) -> None:
    harness = open_harness(render="full")
    report = await harness.run(film(a_shot(1), a_shot(2, continue_from="shot-1")))
    assert statuses(report) == ["stored"] * 2
    before, after = ([frame.to_image() for frame in decode(shot)] for shot in report.shots)
    assert psnr(before[-1], after[0]) > 35
    assert psnr(before[0], after[0]) < 35
    # The picture that was sent is kept beside the project, without loss.
    (kept,) = (harness.folder / "store" / "film" / "references").glob("*.png")
    with Image.open(kept) as sent:
        assert sent.convert("RGB").tobytes() == before[-1].tobytes()


def decode(shot: ShotReport) -> list[av.VideoFrame]:
    """Decode all frames of a stored video."""
    assert shot.uri is not None
    with av.open(unquote(urlsplit(shot.uri).path)) as container:
        return list(container.decode(video=0))


def psnr(first: Image.Image, other: Image.Image) -> float:
    """Return the peak signal-to-noise ratio of two pictures in decibels."""
    difference = ImageStat.Stat(ImageChops.difference(first, other))
    mean_square = sum(square / count for square, count in zip(difference.sum2, difference.count, strict=True)) / 3
    return 10 * math.log10(255**2 / mean_square) if mean_square else math.inf


async def test_the_first_take_that_is_stored_is_continued(open_harness: OpenHarness) -> None:
    harness = open_harness(render="full")
    project = film(a_shot(1, takes=2, choose="first"), a_shot(2, continue_from="shot-1"))
    report = await harness.run(project)
    assert statuses(report) == ["stored"] * 3
    choices = {shot.choice for shot in report.shots[:2]}
    assert choices == {"chosen", "rejected"}
    (chosen,) = (shot for shot in report.shots if shot.choice == "chosen")
    (child,) = (row for row in await harness.rows() if row.shot.id == "shot-2")
    assert child.shot.first_frame == f"last-frame:{chosen.sha256}"
    again = await harness.run(project)
    assert [shot.choice for shot in again.shots] == [shot.choice for shot in report.shots]
    assert harness.paid == (3, 3)


async def test_a_human_chooses_redoes_and_drops(open_harness: OpenHarness) -> None:
    harness = open_harness(render="full")
    project = film(a_shot(1, takes=2, choose="human"), a_shot(2, continue_from="shot-1"), budget_usd=10 * PRICE)
    decide = {"by": "ann", "environment": "production"}

    report = await harness.run(project)
    assert statuses(report) == ["stored", "stored", "waiting"]
    assert [shot.choice for shot in report.shots] == ["pending", "pending", None]
    assert "prefect-video approve film shot-1 --take N" in (report.shots[2].error or "")
    async with harness.ledger() as ledger:
        (listed,) = await list_takes(ledger, "film", environment="production")
        assert (listed.is_pending, sorted(listed.takes)) == (True, [1, 2])
        await choose_take(ledger, "film", "shot-1", 2, **decide)

    report = await harness.run(project)
    assert [shot.choice for shot in report.shots] == ["rejected", "chosen", None]
    (child,) = (row for row in await harness.rows() if row.shot.id == "shot-2" and row.state is State.STORED)
    assert child.shot.first_frame == f"last-frame:{report.shots[1].sha256}"
    assert harness.paid == (3, 3)

    async with harness.ledger() as ledger:
        await redo_shot(ledger, "film", "shot-1", "a dog on a roof", **decide)
        assert not (await list_takes(ledger, "film", environment="production"))[0].is_pending
    report = await harness.run(project)
    assert statuses(report) == ["stored", "stored", "waiting"]
    assert report.shots[0].prompt == "a dog on a roof"
    async with harness.ledger() as ledger:
        await choose_take(ledger, "film", "shot-1", 1, **decide)
    assert statuses(await harness.run(project)) == ["stored"] * 3
    assert harness.paid == (6, 6)

    async with harness.ledger() as ledger:
        await drop_shot(ledger, "film", "shot-1", **decide)
    report = await harness.run(project)
    assert statuses(report) == ["dropped", "skipped"]
    assert report.shots[1].error == "it depends on 'shot-1', which was dropped"
    # Another prompt in the project makes the decisions about the old one void.
    other = project.model_copy(update={"shots": (a_shot(1, prompt="a fox", takes=2, choose="human"),)})
    assert statuses(await harness.run(other)) == ["stored", "stored"]


async def test_routed_shots_continue_each_other_at_any_account(routing: RoutingHarness) -> None:
    routed = {"provider": "auto", "accounts": ["dear", "cheap"]}
    # Only the dear account makes the second one.
    shots = ({}, {"continue_from": "s0", "resolution": "720p"}, {"continue_from": "s1"})
    report = await routing.make(project(*shots, **routed, budget_usd="1.20"))
    assert statuses(report) == ["stored"] * 3
    assert routing.billed == (1, 2)
    assert [shot.cached for shot in (await routing.make(project(*shots, **routed))).shots] == [True] * 3


async def test_a_continuation_that_no_longer_fits_is_made_as_its_fallback(routing: RoutingHarness) -> None:
    shots = ({}, {"continue_from": "s0", "duration": 4})
    report = await routing.make(project(*shots, budget_usd="2.00", fallbacks=[{"duration": 3}]))
    assert [(shot.status, shot.degraded) for shot in report.shots] == [
        ("stored", None),
        ("stored", "duration: 4 became 3"),
    ]
    refused = await routing.make(project(*shots, budget_usd="1.99", over_budget="fit", project="other"))
    assert statuses(refused) == ["stored", "over_budget"]
    assert routing.billed == (2, 0)


async def test_the_best_take_by_its_quality_is_continued(open_harness: OpenHarness) -> None:
    harness = open_harness(render="full")
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="black")
    shots = (a_shot(1, takes=2, choose="best"), a_shot(2, continue_from="shot-1"))
    report = await harness.run(film(*shots, quality={"black": "flag"}))
    assert statuses(report) == ["stored"] * 3
    scores = {shot.choice: shot.quality.score for shot in report.shots[:2] if shot.quality}
    assert scores["chosen"] > scores["rejected"]
    (chosen,) = (shot for shot in report.shots if shot.choice == "chosen")
    (child,) = (row for row in await harness.rows() if row.shot.id == "shot-2")
    assert child.shot.first_frame == f"last-frame:{chosen.sha256}"
    assert harness.paid == (3, 3)
    with pytest.raises(ValueError, match="choose: best compares by the project's `quality`"):
        Project.model_validate({"project": "film", "shots": [shots[0].model_dump()]})


async def test_a_clip_made_by_hand_is_continued(harness: RecoveryHarness) -> None:
    (made,) = (await harness.run(film(a_shot(1), name="source"))).shots
    clip = Shot(id="clip", clip=unquote(urlsplit(made.uri or "").path))
    project = film(clip, a_shot(2, continue_from="clip"), budget_videos=1)
    assert statuses(await harness.run(project)) == ["stored"] * 2
    assert [shot.cached for shot in (await harness.run(project)).shots] == [True] * 2
    assert harness.paid == (2, 2)
