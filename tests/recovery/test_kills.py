"""Workers killed by SIGKILL at each marked point; the provider's usage records are the judge. `make torture` is the long form."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal

from benchmarks.torture_points import POINTS
from benchmarks.torture_verdict import Shelf, judge
from benchmarks.torture_worker import Kill
from prefect_video.ledger import Budget, Ledger
from prefect_video.pipeline import plan_project, run_project
from prefect_video.session import SessionEvent
from tests.support.recovery import RecoveryHarness, a_shot, film
from tests.support.recovery_fixtures import OpenHarness
from tests.support.workers import KILLED, end, start

MARKED = [name for name, point in POINTS.items() if point.event]


def kill_at_each(harness: RecoveryHarness, points: Sequence[str]) -> None:
    """One worker after another dies, each further on in the same project; the last one lives."""
    shots = [*(a_shot(number) for number in range(8)), a_shot(1, id="again"), a_shot(2, id="variants", takes=2)]
    project = film(*shots)
    known = {shot.prompt: shot for shot in shots}
    shelf = Shelf(harness.folder / "store")
    for name in points:
        point = POINTS[name]
        assert point.event is not None
        harness.emulator.clear_faults()
        for fault in point.faults:
            harness.emulator.add_fault(**fault)
        delay = max(point.delay_seconds) / 2 if point.delay_seconds else None
        worker = start(harness, project, Kill(event=point.event, delay_seconds=delay))
        assert end(worker).status == KILLED, f"not killed: {name}"
        shelf.inspect(known)
        assert not shelf.half_files
    harness.emulator.clear_faults()
    last = end(start(harness, project))
    assert last.status == 0, last.report
    shelf.inspect(known)
    harness.emulator.wait_until_idle()
    expected = {shot.prompt: 2 if shot.prompt == a_shot(2).prompt else 1 for shot in shots}
    verdict = judge(harness.emulator.usage(), shelf, expected, harness.ledger_url)
    assert verdict.holds, str(verdict)
    assert verdict.billed == 9


def test_every_marked_point(open_harness: OpenHarness) -> None:
    kill_at_each(open_harness(speed=100), MARKED)


async def test_points_on_postgresql(open_harness: OpenHarness, postgres_url: str) -> None:
    async with await Ledger.open(postgres_url, migrate=True):
        pass
    harness = open_harness(postgres_url, speed=100)
    points = ["sent, not answered", "answered, not recorded", "published, not recorded"]
    await asyncio.to_thread(kill_at_each, harness, points)


def test_a_killed_run_is_finished_by_a_collector(open_harness: OpenHarness) -> None:
    harness = open_harness(speed=100)
    project = film(a_shot(1), a_shot(2))
    assert end(start(harness, project, Kill(event="polled", skip=1))).status == KILLED
    harness.emulator.wait_until_idle()
    collected = end(start(harness, None)).report["collected"]
    assert sorted(collected) == ["shot-1: stored", "shot-2: stored"]
    assert harness.paid == (2, 2)


def test_a_worker_beside_takes_over_when_the_other_is_killed(open_harness: OpenHarness) -> None:
    harness = open_harness(speed=10)
    project = film(*(a_shot(number) for number in range(4)))
    first = start(harness, project, Kill(event="submitted", skip=3, delay_seconds=0.3))
    second = start(harness, project)
    assert {end(first).status, end(second).status} <= {KILLED, 0}
    assert end(start(harness, project)).status == 0
    assert len(harness.videos) == 4
    assert harness.paid == (4, 4)


def test_a_fallback_whose_worker_was_killed_is_carried_on(open_harness: OpenHarness) -> None:
    """The limit that led to it is gone meanwhile: what was wanted first is not bought besides."""
    harness = open_harness(speed=100)
    wanted = film(a_shot(duration=2), budget_usd="0.30", fallbacks=({"duration": 1},))
    for moment in ("answered", "submitted", "published"):
        assert end(start(harness, wanted, Kill.model_validate({"event": moment}))).status == KILLED, moment
        wanted = wanted.model_copy(update={"budget_usd": None})
    assert end(start(harness, wanted)).status == 0
    assert len(harness.videos) == 1
    assert harness.paid == (1, 1)


async def test_a_run_that_is_killed_before_it_continues_a_stored_shot(open_harness: OpenHarness) -> None:
    """The reservation of the dead run is no limit to others, and the shot is paid once by the run that goes on."""
    harness = open_harness(speed=100)
    project = film(a_shot(1), a_shot(2, continue_from="shot-1"), budget_usd="0.60")
    assert (await asyncio.to_thread(end, start(harness, project, Kill(event=SessionEvent.STORED)))).status == KILLED
    assert [(row.shot.id, row.state.value) for row in await harness.rows()] == [
        ("shot-1", "stored"),
        ("shot-2", "reserved"),
    ]
    month = [Budget(scope="month", limit_usd=Decimal("0.60"))]
    async with harness.session(budgets=month) as session:
        rival = film(a_shot(3), name="rival")
        assert (await plan_project(session, rival)).fits
        report = await run_project(session, rival)
    assert [shot.status for shot in report.shots] == ["stored"]
    assert (await asyncio.to_thread(end, start(harness, project))).status == 0
    assert harness.paid == (3, 3)
    assert harness.emulator.usage()["submitted"] == 3


async def test_a_chain_is_killed_at_every_marked_point(open_harness: OpenHarness) -> None:
    harness = open_harness(speed=100)
    project = film(a_shot(1), a_shot(2, continue_from="shot-1"), a_shot(3, continue_from="shot-2"))
    moments = ("submitted", "published", "stored", "answered", "stored", "polled")
    for event in map(SessionEvent, moments):
        worker = start(harness, project, Kill(event=event))
        assert (await asyncio.to_thread(end, worker)).status == KILLED, event
    assert (await asyncio.to_thread(end, start(harness, project))).status == 0
    assert len(harness.videos) == 3
    assert harness.paid == (3, 3)
