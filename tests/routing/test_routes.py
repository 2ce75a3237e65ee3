"""Which account makes a shot, and what is given up when one is in trouble; with two real providers."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from prefect_video import InvalidInput, Project
from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.http import HttpSettings
from prefect_video.ledger import Ledger
from prefect_video.opening import StudioRef
from prefect_video.planning import plan_project
from prefect_video.production import produce_project
from prefect_video.providers.sora import SoraProvider
from prefect_video.reports import ProjectReport
from prefect_video.storage import open_store
from prefect_video.studio import Studio, StudioSettings

QUICK = HttpSettings(backoff_seconds=0.01, backoff_limit_seconds=0.02, attempts=1, submit_timeout_seconds=2)


@dataclass
class House:
    """Two accounts on one ledger and one store."""

    dear: Studio
    cheap: Studio
    at_dear: Emulator
    at_cheap: Emulator

    async def make(self, project: Project) -> ProjectReport:
        return await produce_project(self.dear, project, others=[self.cheap])

    @property
    def billed(self) -> tuple[int, int]:
        return self.at_dear.books()["billed"], self.at_cheap.books()["billed"]


def opened(name: str, emulator: Emulator, prices: Mapping[int, Decimal], **changes: Any) -> SoraProvider:
    provider = SoraProvider(
        api_key=emulator.key, endpoint=emulator.endpoint, plan="emulator", name=name, settings=QUICK
    )
    provider.capabilities = replace(
        provider.capabilities, usd_per_second=prices, work_seconds_per_second=(0.0, 0.1), **changes
    )
    return provider


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    settings = StudioSettings.from_environment(
        spool=tmp_path / "spool", settle_seconds=0.2, on_open="fail", breaker_failures=1, breaker_seconds=60
    )

    async def studio(provider: SoraProvider) -> Studio:
        store = (tmp_path / "videos").as_uri()
        return Studio(
            provider=provider,
            ledger=await Ledger.open(str(tmp_path / "ledger.db")),
            store=open_store(store),
            store_name=store,
            credentials=provider.name,
            settings=settings,
        )

    fast = EmulatorSettings(port=0, speed=2000, render="plate")
    with Emulator(fast.model_copy(update={"monthly_quota": 2})) as at_dear, Emulator(fast) as at_cheap:
        dear = opened("dear", at_dear, {1: Decimal("0.50")})
        cheap = opened("cheap", at_cheap, {1: Decimal("0.10")}, sizes={"480p": 5})
        async with await studio(dear) as first, await studio(cheap) as second:
            yield House(first, second, at_dear, at_cheap)


def project(*shots: dict[str, Any], **given: Any) -> Project:
    defaults = {"duration": 1, "resolution": "480p"}
    named = [{"id": f"s{n}", "prompt": f"shot {n}", **shot} for n, shot in enumerate(shots)]
    return Project.model_validate({"project": "film", "defaults": defaults, "shots": named, **given})


AUTO: dict[str, Any] = {"provider": "auto", "accounts": ["dear", "cheap"]}


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


def test_the_references_that_a_project_needs() -> None:
    shots = project({}, fallbacks=[{"provider": "emulator"}, {"duration": 1}], provider="sora")
    assert [(ref.provider, ref.on_open) for ref in StudioRef.all_of(shots)] == [("sora", "fail"), ("emulator", "fail")]
    assert [ref.provider for ref in StudioRef.all_of(shots, "replicate")] == ["replicate", "emulator"]
    assert [(ref.provider, ref.on_open) for ref in StudioRef.all_of(project({}, provider="sora"))] == [("sora", None)]
    assert [ref.provider for ref in StudioRef.all_of(project({}, **AUTO))] == ["dear", "cheap"]
    with pytest.raises(InvalidInput, match="accounts"):
        StudioRef.all_of(project({}), "auto")
