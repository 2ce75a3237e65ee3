"""Remixes: made from the generation of another shot, at the account that made it, and paid once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from prefect_video.emulator import Emulator
from prefect_video.errors import BudgetExceeded, InvalidInput
from prefect_video.ledger import Job
from prefect_video.pipeline import plan_project
from prefect_video.pipeline.approval import choose_take, redo_shot
from prefect_video.project_files import load_project
from prefect_video.projects import Project, as_parameter
from prefect_video.providers.openai.provider import OpenAIProvider
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.session import SessionEvent
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness
from tests.support.routing import AUTO, RoutingHarness, open_routing, project
from tests.unit.pipeline.test_continuation import decode, psnr

PRICE = Decimal("0.30")
REMIX = "the same roof, in snow"


def pair(prompt: str = REMIX, first: dict[str, Any] | None = None, **options: Any) -> Project:
    """Build a project of an original and its remix."""
    remix = {"id": "shot-2", "prompt": prompt, "remix_of": "shot-1"}
    original = a_shot(1).model_dump(exclude_unset=True) | (first or {})
    return Project.model_validate({"project": "film", "shots": [original, remix], **options})


def open_openai(**given: Any) -> OpenAIProvider:
    """Open OpenAI's own dialect at the same emulator."""
    return OpenAIProvider(
        api_key=given["api_key"], base_url=given["endpoint"].removesuffix("/sora"), settings=given["settings"]
    )


def billed(harness: RecoveryHarness) -> tuple[int, int, Decimal]:
    """Return the generations accepted and billed, and the amount, by the provider's books."""
    return *harness.paid, Decimal(str(harness.emulator.usage()["billed_usd"]))


@pytest.mark.parametrize(("kind", "usd"), [(None, 2 * PRICE), (open_openai, Decimal("0.20"))])
async def test_a_remix_names_its_original_and_is_paid_once(harness: RecoveryHarness, kind: Any, usd: Decimal) -> None:
    opened = {} if kind is None else {"kind": kind}
    async with harness.session(**opened) as session:
        plan = await plan_project(session, pair(budget_usd=usd))
    assert (plan.cost_usd, plan.later, plan.fits) == (usd, {"shot-1": usd / 2}, True)
    with pytest.raises(BudgetExceeded):
        await harness.run(pair(budget_usd=usd - Decimal("0.01")), **opened)
    assert statuses(await harness.run(pair(budget_usd=usd), **opened)) == ["stored"] * 2
    original, remix = harness.emulator.requests()
    assert (remix["remix_of"], remix["prompt"]) == (original["id"], REMIX)
    assert {name: remix[name] for name in ("model", "duration", "size")} == {
        name: original[name] for name in ("model", "duration", "size")
    }
    assert billed(harness) == (2, 2, usd)
    again = await harness.run(pair(budget_usd=usd), **opened)
    assert [shot.cached for shot in again.shots] == [True] * 2
    assert billed(harness) == (2, 2, usd)


@pytest.mark.parametrize("kind", [None, open_openai])
async def test_a_remix_whose_answer_is_lost_is_found_by_its_original(harness: RecoveryHarness, kind: Any) -> None:
    """Two remixes of one prompt have two originals, which alone tell them apart where no key is echoed."""
    opened = {} if kind is None else {"kind": kind}
    shots = [
        a_shot(1),
        a_shot(2),
        a_shot(3, prompt=REMIX, remix_of="shot-1"),
        a_shot(4, prompt=REMIX, remix_of="shot-2"),
    ]
    harness.emulator.add_fault(operation="submit", kind="reset_after", match={"prompt": REMIX}, times=2)
    report = await harness.run(film(*shots), **opened)
    assert statuses(report) == ["stored"] * 4
    assert harness.paid == (4, 4)
    made = {request["id"]: request["remix_of"] for request in harness.emulator.requests()}
    rows = {row.shot.id: row for row in await harness.rows()}
    for remix, original in (("shot-3", "shot-1"), ("shot-4", "shot-2")):
        assert made[str(rows[remix].generation_id)] == rows[original].generation_id


async def test_a_remix_that_was_never_accepted_is_sent_again(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="submit", kind="reset_before", match={"prompt": REMIX})
    assert statuses(await harness.run(pair(), kind=open_openai)) == ["stored"] * 2
    assert harness.paid == (2, 2)


async def test_a_run_that_ends_between_claim_and_submit_of_a_remix_goes_on(harness: RecoveryHarness) -> None:
    run: asyncio.Task[Any]

    def observer(event: SessionEvent, job: Job) -> None:
        if event is SessionEvent.BEFORE_SEND and job.shot.id == "shot-2":
            run.cancel()

    run = asyncio.create_task(harness.run(pair(), observer=observer))
    await asyncio.wait([run])
    assert run.cancelled()
    reports = await asyncio.gather(*(harness.run(pair()) for _ in range(2)))
    assert [statuses(report) for report in reports] == [["stored"] * 2] * 2
    assert harness.paid == (2, 2)


async def test_a_failed_original_fails_its_remix_and_nothing_else(harness: RecoveryHarness) -> None:
    shots = [a_shot(1, prompt="a cat [fail]"), a_shot(2, remix_of="shot-1"), a_shot(3)]
    report = await harness.run(film(*shots, max_attempts=1, budget_usd=3 * PRICE))
    assert statuses(report) == ["failed", "skipped", "stored"]
    assert report.shots[1].error == "it depends on 'shot-1', which failed"
    assert harness.paid == (2, 1)


async def test_a_redone_original_is_remixed_anew_and_a_remix_can_be_remixed(harness: RecoveryHarness) -> None:
    shots = [
        a_shot(1, takes=2, choose="human"),
        a_shot(2, prompt=REMIX, remix_of="shot-1"),
        a_shot(3, prompt="by night", remix_of="shot-2"),
    ]
    requested, decide = film(*shots, budget_usd=8 * PRICE), {"by": "ann", "environment": "production"}
    assert statuses(await harness.run(requested)) == ["stored", "stored", "waiting", "skipped"] or harness.paid == (
        2,
        2,
    )
    async with harness.ledger() as ledger:
        await choose_take(ledger, "film", "shot-1", 2, **decide)
    assert statuses(await harness.run(requested)) == ["stored"] * 4
    takes = {(row.shot.id, row.take): row.generation_id for row in await harness.rows()}
    remixed = {request["id"]: request["remix_of"] for request in harness.emulator.requests()}
    assert remixed[str(takes["shot-2", 1])] == takes["shot-1", 2]
    assert remixed[str(takes["shot-3", 1])] == takes["shot-2", 1]
    async with harness.ledger() as ledger:
        await redo_shot(ledger, "film", "shot-1", "a dog on a roof", **decide)
    await harness.run(requested)
    async with harness.ledger() as ledger:
        await choose_take(ledger, "film", "shot-1", 1, **decide)
    assert statuses(await harness.run(requested)) == ["stored"] * 4
    assert harness.paid == (8, 8)


async def test_an_original_that_the_provider_no_longer_has_is_not_paid_for(harness: RecoveryHarness) -> None:
    await harness.run(film(a_shot(1)))
    before = harness.paid
    harness.emulator.restart()
    report = await harness.run(pair())
    assert statuses(report) == ["stored", "failed"]
    assert "no longer has generation" in (report.shots[1].error or "")
    assert "continue_from" in (report.shots[1].error or "")
    assert harness.emulator.usage()["submitted"] == 1
    assert before == (1, 1)


async def test_an_original_of_another_account_is_not_remixed(harness: RecoveryHarness) -> None:
    await harness.run(film(a_shot(1)))
    harness.emulator.issue_key("another-customer")

    def open_other(**given: Any) -> Any:
        return SoraProvider(**{**given, "api_key": "another-customer"})

    report = await harness.run(pair(), kind=open_other)
    assert statuses(report) == ["stored", "failed"]
    assert "where alone it can be remixed" in (report.shots[1].error or "")
    assert harness.emulator.usage()["submitted"] == 1


async def test_a_routed_remix_goes_where_its_original_was_made(routing: RoutingHarness) -> None:
    """The cheap account makes no remixes, so that the dear one makes both; another shot goes to the cheap one."""
    cheap = vars(routing.cheap.provider)["_provider"]
    cheap.capabilities = replace(cheap.capabilities, can_remix=False)
    shots: tuple[dict[str, Any], ...] = ({}, {"remix_of": "s0", "prompt": REMIX}, {})
    report = await routing.make(project(*shots, **AUTO, budget_usd=Decimal("1.10")))
    assert statuses(report) == ["stored"] * 3
    assert routing.billed == (2, 1)


async def test_an_original_of_an_account_without_remixes_fails_its_remix_and_nothing_else(
    tmp_path: Path, emulators: tuple[Emulator, Emulator]
) -> None:
    async with open_routing(tmp_path, *emulators, cheap_provider="dear") as routing:
        cheap = vars(routing.cheap.provider)["_provider"]
        cheap.capabilities = replace(cheap.capabilities, can_remix=False)
        assert statuses(await routing.make(project({}, **AUTO))) == ["stored"]
        shots: tuple[dict[str, Any], ...] = ({}, {"remix_of": "s0", "prompt": REMIX}, {}, {"depends_on": ["s1"]})
        remixes = project(*shots, **AUTO, budget_usd=Decimal("0.40"))
        plan = await plan_project(routing.dear, remixes, others=[routing.cheap])
        assert [shot.action for shot in plan.shots] == ["cached", "refused", "generate", "refused"]
        assert (plan.cost_usd, plan.later) == (Decimal("0.10"), {})
        assert "makes no remixes" in (plan.shots[1].reason or "")
        report = await routing.make(remixes)
        assert statuses(report) == ["stored", "failed", "stored", "skipped"]
        assert plan.shots[1].reason == report.shots[1].error
        assert routing.billed == (0, 2)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "duration": ({"duration": 4}, "a remix keeps that of 'shot-1', 1"),
    "seed": ({"seed": 7}, "a remix has a prompt and nothing else"),
    "continue_from": ({"continue_from": "shot-1"}, "a remix has a prompt and nothing else"),
    "remix_of": ({"remix_of": "nowhere"}, "which is not a shot"),
    "remixed_from": ({"remixed_from": "video_1"}, "name the shot with remix_of"),
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_remix_that_cannot_be_made_is_refused_when_it_is_read(field: str) -> None:
    changes, reason = REFUSED[field]
    remix = {"id": "shot-2", "prompt": REMIX, "remix_of": "shot-1", **changes}
    with pytest.raises(ValidationError, match=reason):
        Project.model_validate({"project": "film", "shots": [a_shot(1), remix]})


def test_a_remix_has_the_shape_of_its_original_also_as_a_parameter(tmp_path: Path) -> None:
    path = tmp_path / "film.yaml"
    path.write_text(
        "project: film\ndefaults: {resolution: 720p, seed: 3, duration: 8}\nshots:\n"
        "  - {id: c, prompt: night, remix_of: b}\n  - {id: b, prompt: snow, remix_of: a}\n"
        "  - {id: a, prompt: a roof, duration: 4}\n"
    )
    loaded = load_project(path)
    assert [(shot.duration, shot.resolution, shot.seed) for shot in loaded.shots] == [
        (4, "720p", None),
        (4, "720p", None),
        (4, "720p", 3),
    ]
    assert Project.model_validate(as_parameter(loaded)).shots == loaded.shots


async def test_a_dialect_without_remixes_and_a_clip_by_hand_are_refused_for_free(
    harness: RecoveryHarness, tmp_path: Path
) -> None:
    def open_plan(**given: Any) -> Any:
        return SoraProvider(**{**given, "plan": "api-tier-1"})

    with pytest.raises(InvalidInput, match=r"shot 'shot-2': remix_of: .* openai does"):
        await harness.run(pair(first={"resolution": "720p"}), kind=open_plan)
    with pytest.raises(ValidationError, match="is a clip that was made by hand"):
        pair(first={"clip": "stock.mp4", "prompt": None})
    assert harness.emulator.usage()["submitted"] == 0


async def test_a_remix_looks_like_its_original(open_harness: OpenHarness) -> None:
    harness = open_harness(render="full")
    report = await harness.run(film(a_shot(1), a_shot(2, prompt=REMIX, remix_of="shot-1"), a_shot(3)))
    original, remix, other = (decode(shot)[0].to_image().crop((0, 100, 850, 280)) for shot in report.shots)
    assert psnr(original, remix) > psnr(original, other) + 10
