"""Approval: a shot that is stored waits for a human, and with it what continues or needs it."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_video.ledger import Ledger
from prefect_video.pipeline import approve_as_proposed, list_pending, list_takes
from prefect_video.pipeline.approval import choose_take, drop_shot, redo_shot
from prefect_video.projects import Project
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses

ENVIRONMENT = "production"
SOON = 0.001 / 3600


def film_to_approve(**options: Any) -> Project:
    """Build a project whose first shot is approved by a human, and one shot each that continues and needs it."""
    shots = a_shot(1, approve=True), a_shot(2, continue_from="shot-1"), a_shot(3, depends_on=("shot-1",)), a_shot(4)
    return film(*shots, **options)


async def pending(ledger: Ledger, project: str = "film") -> list[str]:
    return [takes.shot.id for takes in await list_pending(ledger, project, environment=ENVIRONMENT)]


async def test_what_needs_an_approval_waits_for_it(harness: RecoveryHarness) -> None:
    report = await harness.run(film_to_approve())
    assert statuses(report) == ["stored", "waiting", "waiting", "stored"]
    assert [shot.choice for shot in report.shots] == ["pending", None, None, None]
    assert "waiting for approval: prefect-video approve film shot-1 --yes" in (report.shots[0].error or "")
    assert harness.paid == (2, 2)
    async with harness.ledger() as ledger:
        assert await pending(ledger) == ["shot-1"]
        await approve_as_proposed(ledger, "film", None, by="me", environment=ENVIRONMENT)
        assert await pending(ledger) == []
    assert statuses(await harness.run(film_to_approve())) == ["stored"] * 4
    assert harness.paid == (4, 4)


async def test_a_new_prompt_is_approved_anew_and_a_dropped_shot_is_not_made(harness: RecoveryHarness) -> None:
    project = film(a_shot(1, approve=True), a_shot(4))
    await harness.run(project)
    async with harness.ledger() as ledger:
        await redo_shot(ledger, "film", "shot-1", "a dog", by="me", environment=ENVIRONMENT)
        assert await pending(ledger) == []
        report = await harness.run(project)
        assert (report.shots[0].prompt, report.shots[0].choice) == ("a dog", "pending")
        assert harness.paid == (3, 3)
        assert await pending(ledger) == ["shot-1"]
        await drop_shot(ledger, "film", "shot-1", by="me", environment=ENVIRONMENT)
    assert statuses(await harness.run(project)) == ["dropped", "stored"]
    assert harness.paid == (3, 3)


async def test_a_prompt_that_is_taken_back_lists_its_own_takes_again(harness: RecoveryHarness) -> None:
    first, second = "a cat on a roof, scene 1", "a dog"
    project = film(a_shot(1, approve=True, takes=2))

    async def listed(ledger: Ledger) -> list[tuple[str, list[str]]]:
        found = await list_takes(ledger, "film", environment=ENVIRONMENT)
        return [(takes.shot.prompt, [job.shot.prompt for job in takes.takes.values()]) for takes in found]

    await harness.run(project)
    async with harness.ledger() as ledger:
        before = {job.id for job in await ledger.jobs.find(limit=None)}
        for prompt in (second, first):
            await redo_shot(ledger, "film", "shot-1", prompt, by="me", environment=ENVIRONMENT)
            report = await harness.run(project)
            assert [shot.choice for shot in report.shots] == ["pending"] * 2
            assert await listed(ledger) == [(prompt, [prompt] * 2)]
        assert harness.paid == (4, 4), "what is taken back is stored"
        # A third one is requested, and not made yet: nothing waits for a human.
        await redo_shot(ledger, "film", "shot-1", second, by="me", environment=ENVIRONMENT)
        await redo_shot(ledger, "film", "shot-1", "a fox", by="me", environment=ENVIRONMENT)
        assert await pending(ledger) == []
        await redo_shot(ledger, "film", "shot-1", first, by="me", environment=ENVIRONMENT)
        await harness.run(project)
        await choose_take(ledger, "film", "shot-1", 2, by="me", environment=ENVIRONMENT)
        assert await pending(ledger) == []
        report = await harness.run(project)
        assert [shot.choice for shot in report.shots] == ["rejected", "chosen"]
        (takes,) = await list_takes(ledger, "film", environment=ENVIRONMENT)
        assert {job.id for job in takes.takes.values()} == before
        assert takes.chosen == 2
    assert harness.paid == (4, 4)


@pytest.mark.parametrize(
    ("on_no_answer", "expected"),
    [
        ("first", ["stored"] * 4),
        ("drop", ["dropped", "skipped", "skipped", "stored"]),
        ("fail", ["failed", "skipped", "skipped", "stored"]),
    ],
)
async def test_a_deadline_is_settled_by_the_next_run(
    harness: RecoveryHarness, on_no_answer: str, expected: list[str]
) -> None:
    project = film_to_approve(approval={"within_hours": SOON, "on_no_answer": on_no_answer})
    assert statuses(await harness.run(project))[0] == "stored"
    report = await harness.run(project)
    assert statuses(report) == expected
    if on_no_answer == "fail":
        assert "it was not approved by" in (report.shots[0].error or "")
        async with harness.ledger() as ledger:
            await choose_take(ledger, "film", "shot-1", 1, by="me", environment=ENVIRONMENT)
        assert statuses(await harness.run(project)) == ["stored"] * 4


async def test_a_collection_settles_a_deadline(harness: RecoveryHarness) -> None:
    await harness.run(film_to_approve(approval={"within_hours": SOON, "on_no_answer": "drop"}))
    async with harness.ledger() as ledger:
        await harness.collect()
        (choice,) = (await ledger.choices.read("film", environment=ENVIRONMENT)).values()
        assert (choice.is_dropped, choice.decided_by) == (True, "deadline")


async def test_a_repeated_run_moves_no_deadline(harness: RecoveryHarness) -> None:
    project = film_to_approve(approval={"within_hours": 1})
    async with harness.ledger() as ledger:
        await harness.run(project)
        (before,) = await ledger.approvals.read("film")
        await harness.run(project)
        assert await ledger.approvals.read("film") == [before]
        # The request is withdrawn where the shot needs none any more.
        await harness.run(film(a_shot(1), a_shot(4, approve=True)))
        assert await pending(ledger) == ["shot-4"]


async def test_a_video_that_another_project_has_paid_is_approved_too(harness: RecoveryHarness) -> None:
    await harness.run(film(a_shot(1), name="other"))
    project = film(a_shot(1, id="mine", approve=True, choose="first", takes=1))
    assert (await harness.run(project)).shots[0].choice == "pending"
    async with harness.ledger() as ledger:
        assert await pending(ledger) == ["mine"]
        await approve_as_proposed(ledger, "film", ["mine"], by="me", environment=ENVIRONMENT)
    assert (await harness.run(project)).shots[0].choice == "chosen"
    assert harness.paid == (1, 1)


def test_a_project_asks_for_all_shots_but_those_that_say_otherwise() -> None:
    shots = [{"id": "a", "prompt": "a"}, {"id": "b", "prompt": "b", "approve": False}]
    project = Project.model_validate({"project": "film", "approve": True, "shots": shots})
    assert [shot.approve for shot in project.shots] == [True, False]
