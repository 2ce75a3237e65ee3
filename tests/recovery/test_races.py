"""Eight processes at once on one PostgreSQL ledger."""

from __future__ import annotations

from prefect_video.ledger import Ledger
from tests.support.recovery import a_shot, film
from tests.support.recovery_fixtures import OpenWorkshop
from tests.support.workers import race

PROCESSES = 8


async def test_eight_processes_on_the_same_hundred_shots_pay_a_hundred(
    open_workshop: OpenWorkshop, postgres_url: str
) -> None:
    async with await Ledger.open(postgres_url, migrate=True):
        workshop = open_workshop(postgres_url, speed=2000, capacity=100)
    project = film(*(a_shot(number) for number in range(100)))
    ends = await race(workshop, [project] * PROCESSES)
    assert [worker.status for worker in ends] == [0] * PROCESSES
    assert workshop.paid == (100, 100)
    assert workshop.emulator.books()["submitted"] == 100
    assert len(workshop.videos) == 100


async def test_eight_processes_race_for_a_budget_of_ten(open_workshop: OpenWorkshop, postgres_url: str) -> None:
    async with await Ledger.open(postgres_url, migrate=True):
        workshop = open_workshop(postgres_url, speed=2000, capacity=100)
    projects = [
        film(*(a_shot(100 * process + number) for number in range(10)), budget_videos=10, over_budget="fit")
        for process in range(PROCESSES)
    ]
    ends = await race(workshop, projects)
    found = [shot["status"] for worker in ends for shot in worker.said["shots"]]
    assert (found.count("stored"), found.count("over_budget")) == (10, 10 * PROCESSES - 10)
    assert workshop.paid == (10, 10)
