"""Eight processes at once on one PostgreSQL ledger."""

from __future__ import annotations

from prefect_video.ledger import Ledger
from tests.support.recovery import a_shot, film
from tests.support.recovery_fixtures import OpenHarness
from tests.support.workers import race

PROCESSES = 8


async def test_eight_processes_on_the_same_hundred_shots_pay_a_hundred(
    open_harness: OpenHarness, postgres_url: str
) -> None:
    async with await Ledger.open(postgres_url, migrate=True):
        harness = open_harness(postgres_url, speed=2000, capacity=100)
    project = film(*(a_shot(number) for number in range(100)))
    ends = await race(harness, [project] * PROCESSES)
    assert [worker.status for worker in ends] == [0] * PROCESSES
    assert harness.paid == (100, 100)
    assert harness.emulator.usage()["submitted"] == 100
    assert len(harness.videos) == 100


async def test_eight_processes_race_for_a_budget_of_ten(open_harness: OpenHarness, postgres_url: str) -> None:
    async with await Ledger.open(postgres_url, migrate=True):
        harness = open_harness(postgres_url, speed=2000, capacity=100)
    projects = [
        film(*(a_shot(100 * process + number) for number in range(10)), budget_videos=10, over_budget="fit")
        for process in range(PROCESSES)
    ]
    ends = await race(harness, projects)
    found = [shot["status"] for worker in ends for shot in worker.report["shots"]]
    assert (found.count("stored"), found.count("over_budget")) == (10, 10 * PROCESSES - 10)
    assert harness.paid == (10, 10)
