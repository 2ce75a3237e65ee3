"""Which account makes a shot, and what is given up when one is in trouble; with two real providers."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from prefect_video import InvalidInput, Shot
from prefect_video.emulator import Emulator
from prefect_video.ledger import StoredMatch
from prefect_video.ledger.records import CompletionTime, WorkKind
from prefect_video.pipeline import project_run
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.plan import plan_project
from prefect_video.pipeline.shot_routes import Route
from prefect_video.session import Session, SessionRef
from tests.support.routing import AUTO, RoutingHarness, open_routing, project


async def test_each_shot_goes_to_the_cheapest_account_that_can_make_it(routing: RoutingHarness) -> None:
    report = await routing.make(project({}, {"resolution": "720p"}, {"duration": 6}, **AUTO))
    assert [(shot.status, shot.degraded) for shot in report.shots] == [("stored", None)] * 3
    assert routing.billed == (2, 1)
    again = await routing.make(project({}, {"resolution": "720p"}, {"duration": 6}, **AUTO))
    assert all(shot.cached for shot in again.shots)


async def test_a_file_that_the_search_at_the_second_account_misses_is_fetched_again(
    tmp_path: Path, emulators: tuple[Emulator, Emulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two accounts of one provider share the video: what the first one's search has found is not used."""
    search, searches = project_run.find_stored, 0

    async def search_and_lose(session: Session, *others: Any, **named: Any) -> list[StoredMatch | None]:
        nonlocal searches
        found = await search(session, *others, **named)
        if (searches := searches + 1) == 1:
            file.unlink()
        return found

    async with open_routing(tmp_path, *emulators, cheap_provider="dear") as routing:
        (made,) = (await routing.make(project({}, **AUTO))).shots
        assert made.asset is not None
        file = Path(made.asset.uri.removeprefix("file://"))
        monkeypatch.setattr(project_run, "find_stored", search_and_lose)
        (shot,) = (await routing.make(project({}, **AUTO))).shots
        assert (shot.status, searches, sum(routing.billed)) == ("stored", 2, 1)
    assert file.is_file()


async def test_a_shot_that_no_account_can_make_costs_nothing_and_says_why(routing: RoutingHarness) -> None:
    with pytest.raises(InvalidInput) as caught:
        await routing.make(project({}, {"seed": 7}, **AUTO))
    assert str(caught.value).count("seed") == 2
    assert routing.billed == (0, 0)


async def test_a_plan_shows_who_can_make_what_at_what_price(routing: RoutingHarness) -> None:
    plan = await plan_project(routing.dear, project({}, {"resolution": "720p"}, **AUTO), others=[routing.cheap])
    assert [[(option.provider, option.estimate_usd) for option in shot.options] for shot in plan.shots] == [
        [("cheap", Decimal("0.10")), ("dear", Decimal("0.50"))],
        [("dear", Decimal("0.50"))],
    ]
    assert plan.cost_usd == Decimal("0.60")
    assert routing.at_cheap.usage()["submitted"] == 0


async def test_an_account_in_trouble_is_passed_over(routing: RoutingHarness) -> None:
    await routing.cheap.ledger.accounts.record_failure(routing.cheap.provider.account.id, threshold=1, open_seconds=60)
    report = await routing.make(project({}, **AUTO))
    assert report.shots[0].status == "stored"
    assert routing.billed == (1, 0)


async def test_trouble_that_begins_with_the_shot_leads_to_the_next_account(routing: RoutingHarness) -> None:
    routing.at_cheap.add_fault(operation="submit", kind="error_before", times=None)
    report = await routing.make(project({}, **AUTO))
    assert report.shots[0].status == "stored"
    assert report.shots[0].degraded == "provider: cheap became dear"
    assert routing.billed == (1, 0)
    assert report.public()["shots"][0]["degraded"] == "provider: cheap became dear"


async def test_fallbacks_are_tried_in_order_while_the_quota_is_used_up(routing: RoutingHarness) -> None:
    assert not (await routing.make(project({"prompt": "first"}, {"prompt": "second"}))).failures
    fallbacks = [{"provider": "unknown"}, {"provider": "cheap", "duration": 3}]
    report = await routing.make(project({"duration": 5, "resolution": "480p"}, fallbacks=fallbacks))
    assert report.shots[0].status == "stored", report.shots[0].error
    assert report.shots[0].degraded == "provider: dear became cheap; duration: 5 became 3"
    assert report.shots[0].asset is not None
    assert round(report.shots[0].asset.duration_seconds) == 3
    assert routing.billed == (2, 1)
    # Released rows, of a fallback that was not sent, are no videos.
    (given_up,) = await routing.dear.ledger.jobs.find_degraded(limit=10)
    assert (given_up.asset, given_up.degraded) == (report.shots[0].asset, report.shots[0].degraded)
    assert (await routing.dear.ledger.accounts.status(routing.dear.provider.account.id)).quota_until is not None
    assert await routing.dear.ledger.jobs.unfinished() == []


async def test_over_budget_a_shorter_shot_is_made(routing: RoutingHarness) -> None:
    wanted = project(
        {"duration": 4}, budget_usd="1.50", fallbacks=[{"duration": 3}, {"resolution": "480p", "duration": 2}]
    )
    report = await routing.make(wanted)
    assert [(shot.status, shot.degraded) for shot in report.shots] == [("stored", "duration: 4 became 3")]
    assert routing.billed == (1, 0)


async def test_without_a_fallback_that_helps_the_shot_says_what_is_wrong(routing: RoutingHarness) -> None:
    wanted = project({"duration": 4}, budget_usd="0.40", fallbacks=[{"duration": 3}])
    report = await routing.make(wanted)
    assert report.shots[0].status == "over_budget"
    assert routing.billed == (0, 0)
    assert await routing.dear.ledger.jobs.unfinished() == []


async def test_a_shot_is_adapted_only_where_the_project_says_so(routing: RoutingHarness) -> None:
    shot = {"duration": 2, "seed": 7, "fps": 30}
    with pytest.raises(InvalidInput, match="seed"):
        await routing.make(project(shot))
    report = await routing.make(project(shot, adapt=True))
    assert report.shots[0].status == "stored"
    assert report.shots[0].degraded == "seed: 7 became None; fps: 30 became None"


async def test_the_fastest_is_taken_where_that_is_preferred(routing: RoutingHarness) -> None:
    routing.cheap.provider.capabilities = replace(
        routing.cheap.provider.capabilities, seconds_per_video_second=(50.0, 60.0)
    )
    plan = await plan_project(routing.dear, project({}, prefer="fastest", **AUTO), others=[routing.cheap])
    assert [option.provider for option in plan.shots[0].options] == ["dear", "cheap"]


async def test_how_long_shots_have_taken_decides_what_is_fastest(
    routing: RoutingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def learned(provider: str) -> dict[WorkKind, tuple[CompletionTime, ...]]:
        times = tuple(CompletionTime(seconds=seconds) for seconds in (6, 6, 7, 8, 8))
        return {WorkKind("sora-2", 1, "480p"): times}

    wanted = project({}, prefer="fastest", **AUTO)
    monkeypatch.setattr(routing.dear.ledger.jobs, "latency", learned)
    plan = await plan_project(routing.dear, wanted, others=[routing.cheap])
    assert [(option.provider, option.seconds) for option in plan.shots[0].options] == [("cheap", 0.1), ("dear", 7.0)]
    await routing.make(wanted)
    assert routing.billed == (0, 1)


async def test_a_length_in_frames_counts_for_the_expected_time(routing: RoutingHarness) -> None:
    routing.dear.provider.capabilities = replace(
        routing.dear.provider.capabilities, seconds_per_video_second=(4.0, 6.0)
    )
    shot = Shot(id="frames", prompt="a cat", duration=10, num_frames=48, fps=24)
    assert await Route(routing.dear, shot).seconds() == 10.0


async def test_a_plan_says_why_an_account_cannot_make_a_shot(routing: RoutingHarness) -> None:
    wanted = project({}, {"resolution": "720p"}, **AUTO)
    await routing.make(project({}, **AUTO))
    plan = await plan_project(routing.dear, wanted, others=[routing.cheap])
    cached, new = plan.shots
    assert (cached.action, [option.provider for option in cached.options], cached.refusals) == (
        "cached",
        ["cheap", "dear"],
        {},
    )
    assert [option.provider for option in new.options] == ["dear"]
    assert "720p" in new.refusals["cheap"]


async def test_options_are_by_provider_where_several_may_make_a_shot(routing: RoutingHarness) -> None:
    mine = {"cheap": {"camera": "fixed"}, "dear": {"camera": "free"}}
    report = await routing.make(project({"duration": 2, "options": mine}, **AUTO))
    assert [shot.status for shot in report.shots] == ["stored"]
    (accepted,) = [*routing.at_dear.requests(), *routing.at_cheap.requests()]
    assert accepted["options"] == {"camera": "fixed"}
    # The same options where only one provider comes into question are the same video.
    alone = project({"duration": 2, "options": {"camera": "fixed"}})
    assert (await run_project(routing.cheap, alone)).shots[0].cached
    assert routing.accepted == (0, 1)


async def test_options_of_no_provider_are_refused(routing: RoutingHarness) -> None:
    with pytest.raises(InvalidInput, match=r"options: 'cheep' is no provider of this project; it has cheap, dear"):
        await routing.make(project({"duration": 2, "options": {"cheep": {"camera": "fixed"}}}, **AUTO))
    with pytest.raises(ValidationError, match="options: camera: several providers may make this shot"):
        project({"duration": 2, "options": {"camera": "fixed"}}, **AUTO)
    with pytest.raises(ValidationError, match="by the provider's name"):
        project({"options": {"camera": "fixed"}}, fallbacks=[{"provider": "cheap"}])


def test_the_references_that_a_project_needs() -> None:
    shots = project({}, fallbacks=[{"provider": "emulator"}, {"duration": 1}], provider="sora")
    assert [(ref.provider, ref.on_open) for ref in SessionRef.for_project(shots)] == [
        ("sora", "fail"),
        ("emulator", "fail"),
    ]
    assert [ref.provider for ref in SessionRef.for_project(shots, "replicate")] == ["replicate", "emulator"]
    assert [(ref.provider, ref.on_open) for ref in SessionRef.for_project(project({}, provider="sora"))] == [
        ("sora", None)
    ]
    assert [ref.provider for ref in SessionRef.for_project(project({}, **AUTO))] == ["dear", "cheap"]
    with pytest.raises(InvalidInput, match="accounts"):
        SessionRef.for_project(project({}), "auto")
