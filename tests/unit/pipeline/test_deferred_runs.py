"""Deferred projects: their film, page and report follow when their last shot is stored, once, and nothing is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from prefect_video.gallery import load_manifest
from prefect_video.ledger import DeferredRun, Ledger
from prefect_video.pipeline import choose_take, collect_job, run_project
from prefect_video.pipeline.run_completion import DeferredOutcome
from prefect_video.projects import Project
from prefect_video.service.deferred_projects import DeferredProjects
from prefect_video.service.sessions import Sessions
from prefect_video.session import Session
from tests.support.recovery import RecoveryHarness, a_shot, collect_with, film, statuses
from tests.support.recovery_fixtures import OpenHarness
from tests.unit.pipeline.test_cut_film import QUICK

HELD_BACK = {"speed": 1, "times": "fixed:600", "render": "plate"}


def a_project(*shots: dict[str, Any], **options: Any) -> Project:
    listed = shots or ({"id": "one", "prompt": "dawn"}, {"id": "two", "prompt": "dusk"})
    defaults = {"duration": 2, "resolution": "480p"}
    return Project.model_validate(
        {"project": "film", "defaults": defaults, "shots": list(listed), "cut": {"encoder": QUICK}, **options}
    )


class Outcomes(list[DeferredOutcome]):
    """Outcomes that a collection has reported."""

    async def add(self, outcome: DeferredOutcome) -> None:
        self.append(outcome)

    @property
    def statuses(self) -> list[tuple[str, bool]]:
        return [(outcome.status, outcome.is_news) for outcome in self]


@pytest.fixture
def outcomes() -> Outcomes:
    return Outcomes()


async def defer(harness: RecoveryHarness, project: Project) -> None:
    """Submit a project and leave; the provider ends its generations only afterwards."""
    async with harness.session() as session:
        report = await run_project(session, project, wait=False)
    assert "in_flight" in {shot.status for shot in report.shots}
    assert report.film is not None
    assert report.film.status == "waiting"
    harness.emulator.change_speed(500_000)
    harness.emulator.wait_until_idle()


async def open_runs(ledger: Ledger) -> int:
    return len(await ledger.deferred.find())


async def film_and_page(session: Session) -> tuple[int, list[str]]:
    manifest = await load_manifest(session.store, "film")
    assert manifest is not None
    return int(manifest.film is not None), [take.status for take in manifest.takes]


async def test_the_film_follows_the_last_shot_once(open_harness: OpenHarness, outcomes: Outcomes) -> None:
    harness = open_harness(**HELD_BACK)
    async with harness.session() as session:
        report = await run_project(session, a_project(), wait=False)
        assert [shot.status for shot in report.shots] == ["in_flight"] * 2
        await collect_with(session, on_outcome=outcomes.add)
        assert outcomes == [], "nothing is reported while a shot is in progress"
    harness.emulator.change_speed(500_000)
    harness.emulator.wait_until_idle()
    async with harness.session() as first, harness.session() as second:
        # Both see the last shot stored.
        await asyncio.gather(*(collect_with(session, on_outcome=outcomes.add) for session in (first, second)))
        await collect_with(first, on_outcome=outcomes.add)
        assert outcomes.statuses == [("completed", True)]
        film = outcomes[0].report.film
        assert film is not None
        assert (film.status, film.seconds) == ("made", pytest.approx(4, abs=0.1))
        assert outcomes[0].report.cost_usd == sum(row.cost_usd or 0 for row in await harness.rows())
        assert outcomes[0].report.page_uri
        assert await film_and_page(first) == (1, ["stored"] * 2)
        assert await open_runs(first.ledger) == 0
    assert harness.paid == (2, 2)


async def test_a_shot_that_is_yet_to_be_submitted_waits_for_a_run_and_nothing_is_sent(
    open_harness: OpenHarness, outcomes: Outcomes
) -> None:
    harness = open_harness(**HELD_BACK)
    chain = a_project({"id": "one", "prompt": "dawn"}, {"id": "two", "prompt": "dusk", "continue_from": "one"})
    await defer(harness, chain)
    for _ in range(2):
        await harness.collect(on_outcome=outcomes.add)
    assert outcomes.statuses == [("waiting", True), ("waiting", False)]
    (_, waiting) = outcomes[0].report.shots
    assert "run the project again, which submits it" in str(waiting.error)
    assert harness.paid == (1, 1), "a collection sends nothing"
    async with harness.session() as session:
        report = await run_project(session, chain, wait=False)
        assert [shot.status for shot in report.shots] == ["stored", "in_flight"]
        assert await open_runs(session.ledger) == 1, "the later run takes the place of the first"
    harness.emulator.wait_until_idle()
    await harness.collect(on_outcome=outcomes.add)
    assert outcomes.statuses[2:] == [("completed", True)]
    assert harness.paid == (2, 2)


async def test_what_a_human_or_a_failure_decides(open_harness: OpenHarness, outcomes: Outcomes) -> None:
    harness = open_harness(**HELD_BACK)
    await defer(harness, a_project({"id": "one", "prompt": "dawn", "takes": 2, "choose": "human"}))
    await harness.collect(on_outcome=outcomes.add)
    assert outcomes.statuses == [("waiting", True)]
    async with harness.session() as session:
        environment = session.settings.environment
        await choose_take(session.ledger, "film", "one", 2, by="me", environment=environment)
    await harness.collect(on_outcome=outcomes.add)
    assert outcomes.statuses[1:] == [("completed", True)]
    assert [shot.choice for shot in outcomes[1].report.shots] == ["rejected", "chosen"]
    failing = a_project(
        {"id": "bad", "prompt": "a cat [fail]"}, {"id": "after", "prompt": "two", "continue_from": "bad"}
    )
    harness.emulator.change_speed(1)
    await defer(harness, failing)
    await harness.collect(on_outcome=outcomes.add)
    assert outcomes.statuses[2:] == [("failed", True)]
    assert [shot.status for shot in outcomes[2].report.shots] == ["failed", "skipped"]
    async with harness.session() as session:
        assert await open_runs(session.ledger) == 0


async def test_a_run_that_waits_takes_the_place_of_a_deferred_one(
    open_harness: OpenHarness, outcomes: Outcomes
) -> None:
    harness = open_harness(**HELD_BACK)
    await defer(harness, a_project())
    report = await harness.run(a_project())
    assert report.film is not None
    assert report.film.status == "made"
    await harness.collect(on_outcome=outcomes.add)
    assert outcomes == []
    assert harness.paid == (2, 2)


async def test_a_service_that_collects_completes_the_run_after_its_last_video(open_harness: OpenHarness) -> None:
    harness = open_harness(**HELD_BACK)
    await defer(harness, a_project())
    async with harness.session() as session:
        deferred = DeferredProjects(Sessions((session,)), harness.ledger_url, announces=False)
        first, last = await session.ledger.jobs.unfinished(project="film")
        await collect_job(session, first, wait=False)
        await deferred.complete()
        assert await open_runs(session.ledger) == 1
        await collect_job(session, last, wait=False)
        # Without the end of a generation there is nothing to look for.
        await deferred.complete()
        assert await open_runs(session.ledger) == 1
        deferred.note_end()
        await deferred.complete()
        assert await open_runs(session.ledger) == 0
        assert await film_and_page(session) == (1, ["stored", "stored"])
    assert harness.paid == (2, 2)


async def test_a_service_announces_each_outcome_once(
    open_harness: OpenHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect_video.tasks import events

    announced: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "emit_event", lambda **event: announced.append(event))
    harness = open_harness(**HELD_BACK)
    chain = a_project(
        {"id": "one", "prompt": "noon"}, {"id": "two", "prompt": "night", "continue_from": "one"}, project="chain"
    )
    for project in (a_project(), chain):
        harness.emulator.change_speed(1)
        await defer(harness, project)
    async with harness.session() as session:
        deferred = DeferredProjects(Sessions((session,)), harness.ledger_url, announces=True)
        for job in await session.ledger.jobs.unfinished():
            await collect_job(session, job, wait=False)
        for _ in range(2):
            deferred.note_end()
            await deferred.complete()
            assert sorted((event["resource"]["prefect.resource.name"], event["event"]) for event in announced) == [
                ("chain", "video.project.waiting"),
                ("film", "video.project.completed"),
            ]
    assert harness.paid == (3, 3)


async def test_a_run_that_is_cancelled_before_its_first_shot_begins_leaves_its_claims_to_others(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness.session() as session:
        begin = session.ledger.deferred.begin

        async def cancel_and_begin(run: DeferredRun) -> None:
            running.cancel()
            await begin(run)

        monkeypatch.setattr(session.ledger.deferred, "begin", cancel_and_begin)
        running = asyncio.create_task(run_project(session, film(a_shot(1), a_shot(2)), wait=False))
        await asyncio.wait([running])
        assert running.cancelled()
        assert [job.owner for job in await harness.rows()] == [None, None]
        # This process lives on, and another of its runs makes them.
        async with asyncio.timeout(60):
            assert statuses(await run_project(session, film(a_shot(1), a_shot(2)))) == ["stored", "stored"]
    assert harness.emulator.usage()["submitted"] == 2
