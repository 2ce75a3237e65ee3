"""Which account makes a shot, and what is given up when one is in trouble; with two real providers."""

from dataclasses import replace
from decimal import Decimal

import pytest

from prefect_video import InvalidInput, Shot
from prefect_video.ledger.records import WorkKind, WorkTimes
from prefect_video.pipeline.plan import plan_project
from prefect_video.pipeline.routing import Route
from prefect_video.session.refs import StudioRef
from tests.support.routing import AUTO, House, project


async def test_each_shot_goes_to_the_cheapest_account_that_can_make_it(house: House) -> None:
    report = await house.make(project({}, {"resolution": "720p"}, {"duration": 6}, **AUTO))
    assert [(shot.status, shot.degraded) for shot in report.shots] == [("stored", None)] * 3
    assert house.billed == (2, 1)
    again = await house.make(project({}, {"resolution": "720p"}, {"duration": 6}, **AUTO))
    assert all(shot.cached for shot in again.shots)


async def test_a_shot_that_no_account_can_make_costs_nothing_and_says_why(house: House) -> None:
    with pytest.raises(InvalidInput) as caught:
        await house.make(project({}, {"seed": 7}, **AUTO))
    assert str(caught.value).count("seed") == 2
    assert house.billed == (0, 0)


async def test_a_plan_shows_who_can_make_what_at_what_price(house: House) -> None:
    plan = await plan_project(house.dear, project({}, {"resolution": "720p"}, **AUTO), others=[house.cheap])
    assert [[(one.provider, one.estimate_usd) for one in shot.options] for shot in plan.shots] == [
        [("cheap", Decimal("0.10")), ("dear", Decimal("0.50"))],
        [("dear", Decimal("0.50"))],
    ]
    assert plan.cost_usd == Decimal("0.60")
    assert house.at_cheap.books()["submitted"] == 0


async def test_an_account_in_trouble_is_passed_over(house: House) -> None:
    await house.cheap.ledger.record_trouble(house.cheap.provider.account.id, threshold=1, open_seconds=60)
    report = await house.make(project({}, **AUTO))
    assert report.shots[0].status == "stored"
    assert house.billed == (1, 0)


async def test_trouble_that_begins_with_the_shot_leads_to_the_next_account(house: House) -> None:
    house.at_cheap.add_fault(operation="submit", kind="error_before", times=None)
    report = await house.make(project({}, **AUTO))
    assert report.shots[0].status == "stored"
    assert report.shots[0].degraded == "provider: cheap became dear"
    assert house.billed == (1, 0)
    assert report.public()["shots"][0]["degraded"] == "provider: cheap became dear"


async def test_fallbacks_are_tried_in_order_while_the_quota_is_used_up(house: House) -> None:
    assert not (await house.make(project({"prompt": "first"}, {"prompt": "second"}))).failures
    fallbacks = [{"provider": "nobody"}, {"provider": "cheap", "duration": 3}]
    report = await house.make(project({"duration": 5, "resolution": "480p"}, fallbacks=fallbacks))
    assert report.shots[0].status == "stored", report.shots[0].error
    assert report.shots[0].degraded == "provider: dear became cheap; duration: 5 became 3"
    assert report.shots[0].asset is not None
    assert round(report.shots[0].asset.duration_seconds) == 3
    assert house.billed == (2, 1)
    assert (await house.dear.ledger.standing(house.dear.provider.account.id)).quota_until is not None
    assert await house.dear.ledger.unfinished() == []


async def test_over_budget_a_shorter_shot_is_made(house: House) -> None:
    wanted = project(
        {"duration": 4}, budget_usd="1.50", fallbacks=[{"duration": 3}, {"resolution": "480p", "duration": 2}]
    )
    report = await house.make(wanted)
    assert [(shot.status, shot.degraded) for shot in report.shots] == [("stored", "duration: 4 became 3")]
    assert house.billed == (1, 0)


async def test_without_a_fallback_that_helps_the_shot_says_what_is_wrong(house: House) -> None:
    wanted = project({"duration": 4}, budget_usd="0.40", fallbacks=[{"duration": 3}])
    report = await house.make(wanted)
    assert report.shots[0].status == "over_budget"
    assert house.billed == (0, 0)
    assert await house.dear.ledger.unfinished() == []


async def test_a_shot_is_adapted_only_where_the_project_says_so(house: House) -> None:
    shot = {"duration": 2, "seed": 7, "fps": 30}
    with pytest.raises(InvalidInput, match="seed"):
        await house.make(project(shot))
    report = await house.make(project(shot, adapt=True))
    assert report.shots[0].status == "stored"
    assert report.shots[0].degraded == "seed: 7 became None; fps: 30 became None"


async def test_the_fastest_is_taken_where_that_is_preferred(house: House) -> None:
    house.cheap.provider.capabilities = replace(house.cheap.provider.capabilities, work_seconds_per_second=(50.0, 60.0))
    plan = await plan_project(house.dear, project({}, prefer="fastest", **AUTO), others=[house.cheap])
    assert [one.provider for one in plan.shots[0].options] == ["dear", "cheap"]


async def test_how_long_shots_have_taken_decides_what_is_fastest(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def learned(provider: str) -> dict[WorkKind, WorkTimes]:
        times = WorkTimes(count=9, early_seconds=6, median_seconds=7, late_seconds=8)
        return {WorkKind("sora-2", 1, "480p"): times}

    wanted = project({}, prefer="fastest", **AUTO)
    monkeypatch.setattr(house.dear.ledger, "work_times", learned)
    plan = await plan_project(house.dear, wanted, others=[house.cheap])
    assert [(one.provider, one.seconds) for one in plan.shots[0].options] == [("cheap", 0.1), ("dear", 7.0)]
    await house.make(wanted)
    assert house.billed == (0, 1)


async def test_a_length_in_frames_counts_for_the_expected_time(house: House) -> None:
    house.dear.provider.capabilities = replace(house.dear.provider.capabilities, work_seconds_per_second=(4.0, 6.0))
    shot = Shot(id="frames", prompt="a cat", duration=10, num_frames=48, fps=24)
    assert await Route(house.dear, shot).seconds() == 10.0


async def test_a_plan_says_why_an_account_cannot_make_a_shot(house: House) -> None:
    wanted = project({}, {"resolution": "720p"}, **AUTO)
    await house.make(project({}, **AUTO))
    plan = await plan_project(house.dear, wanted, others=[house.cheap])
    cached, new = plan.shots
    assert (cached.action, [one.provider for one in cached.options], cached.refusals) == (
        "cached",
        ["cheap", "dear"],
        {},
    )
    assert [one.provider for one in new.options] == ["dear"]
    assert "720p" in new.refusals["cheap"]


def test_the_references_that_a_project_needs() -> None:
    shots = project({}, fallbacks=[{"provider": "emulator"}, {"duration": 1}], provider="sora")
    assert [(ref.provider, ref.on_open) for ref in StudioRef.all_of(shots)] == [("sora", "fail"), ("emulator", "fail")]
    assert [ref.provider for ref in StudioRef.all_of(shots, "replicate")] == ["replicate", "emulator"]
    assert [(ref.provider, ref.on_open) for ref in StudioRef.all_of(project({}, provider="sora"))] == [("sora", None)]
    assert [ref.provider for ref in StudioRef.all_of(project({}, **AUTO))] == ["dear", "cheap"]
    with pytest.raises(InvalidInput, match="accounts"):
        StudioRef.all_of(project({}), "auto")
