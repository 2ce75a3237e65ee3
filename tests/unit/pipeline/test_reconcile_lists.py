"""Lists that hide, change or misdate what was accepted: by the emulator's usage, each shot is paid once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from prefect_video.emulator import Emulator
from prefect_video.generations import RecordedGeneration
from prefect_video.ledger.queries import Queries
from prefect_video.ledger.tables import jobs_table
from prefect_video.providers.sora.provider import SoraProvider
from tests.support.recovery import QUICK, RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import SLOW, OpenHarness

WITHOUT_KEY = {"echo_metadata": False}
PATIENCE = {"submit_patience_seconds": 0.3, "settle_seconds": 0.1}


async def run_twice(harness: RecoveryHarness, *numbers: int, **options: Any) -> list[str]:
    """Run a project of these shots twice; return how its shots ended."""
    project = film(*(a_shot(number, prompt=f"a café by the sea, scene {number}") for number in numbers or (1,)))
    for _ in range(2):
        report = await harness.run(project, **{**PATIENCE, **options})
    return statuses(report)


async def submit_elsewhere(emulator: Emulator, prompt: str = "a zebra") -> str:
    """Submit a generation with the same key that no job of the ledger has, and return its id."""
    provider = SoraProvider(api_key=emulator.key, endpoint=emulator.endpoint, plan="emulator", settings=QUICK)
    generation = await provider.submit(a_shot(9, prompt=prompt), idempotency_key="elsewhere", project="other")
    await provider.aclose()
    return generation.id


@pytest.mark.parametrize("echo", ["other_words", "mojibake", "escaped", "redacted"])
async def test_a_prompt_in_other_words_is_no_evidence(open_harness: OpenHarness, echo: str) -> None:
    harness = open_harness(echo_prompt=echo, **WITHOUT_KEY)
    # Others of this account come back in the same form, and are claimed.
    await harness.run(a_shot(7, prompt="a dog in the rain"))
    harness.emulator.add_fault(operation="submit", kind="error_after")
    assert await run_twice(harness) == ["held"]
    assert harness.paid == (2, 2)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "nameless_item"},
        {"kind": "foreign_item", "item_id": "gen_foreign"},
        {"kind": "foreign_item", "item_id": "a/b:c=="},
        {"kind": "twin_id"},
        {"kind": "cached"},
        {"kind": "skewed", "skew_seconds": -600, "about": "café"},
        {"kind": "skewed", "skew_seconds": -12 * 3600, "about": "café"},
        {"kind": "untimed"},
        {"kind": "lost_tail"},
    ],
    ids=lambda fault: " ".join(map(str, fault.values())),
)
@pytest.mark.parametrize("echo_metadata", [True, False], ids=["key", "no key"])
async def test_a_list_at_fault_is_no_evidence(
    open_harness: OpenHarness, fault: dict[str, Any], echo_metadata: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_video.providers.sora.provider.PAGE_SIZE", 2)
    harness = open_harness(echo_metadata=echo_metadata, echo_prompt="redacted")
    await harness.run(film(*(a_shot(number, prompt=f"a dog, scene {number}") for number in (7, 8))))
    await submit_elsewhere(harness.emulator)
    harness.emulator.add_fault(operation="submit", kind="error_after")
    harness.emulator.add_fault(operation="list", times=None, **fault)
    (status,) = await run_twice(harness, check_access=False)
    assert harness.paid == (4, 4)
    assert status == "held" or echo_metadata


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_a_listed_generation_that_cannot_be_read_holds_the_job_with_its_reason(
    harness: RecoveryHarness, status: int
) -> None:
    foreign = await submit_elsewhere(harness.emulator)
    fault = {"kind": "foreign_answer", "foreign_status": status, "match": {"generation_id": foreign}}
    harness.emulator.add_fault(operation="retrieve", times=None, **fault)
    harness.emulator.add_fault(operation="submit", kind="error_before")
    assert await run_twice(harness) == ["held"]
    assert harness.paid == (1, 1)
    reason = str((await harness.row()).hold_reason)
    assert f"generation {foreign}, which cannot be read" in reason
    assert "prefect-video resolve" in reason


async def test_a_list_without_what_is_in_progress_is_no_evidence(open_harness: OpenHarness) -> None:
    harness = open_harness(**SLOW)
    fault = {"kind": "error_after", "match": {"prompt": "scene 2"}}
    harness.emulator.add_fault(operation="submit", **fault)
    harness.emulator.add_fault(operation="list", kind="unfinished_hidden", times=None)
    # Nothing ends before the second one is held, so that its absence is never proven.
    run = asyncio.create_task(run_twice(harness, 1, 2))
    async with asyncio.timeout(60):
        while not any(job.hold_reason for job in await harness.rows()):
            await asyncio.sleep(0.05)
    assert harness.emulator.usage()["accepted"] == 2
    harness.emulator.change_speed(500)
    assert await run == ["stored", "held"]
    assert harness.paid == (2, 2)


@pytest.mark.parametrize(("fault", "clock"), [("untimed", 0), (None, -3 * 3600), (None, 0)])
@pytest.mark.parametrize("echo_metadata", [True, False], ids=["key", "no key"])
@pytest.mark.parametrize("hours", [0, 1])
async def test_ids_that_begin_anew_hide_nothing(
    open_harness: OpenHarness, fault: str | None, clock: float, echo_metadata: bool, hours: int
) -> None:
    harness = open_harness(ids="counting", echo_metadata=echo_metadata)
    await harness.run(a_shot(7, prompt="a dog in the rain"))
    harness.emulator.restart()
    harness.emulator.change_settings(clock_offset_seconds=clock)
    async with harness.ledger() as ledger, ledger._database.writing() as connection:
        recorded_at = datetime.now(UTC) - timedelta(hours=hours)
        await connection.execute(update(jobs_table).values(submitted_at=recorded_at))
    harness.emulator.add_fault(operation="submit", kind="error_after")
    if fault is not None:
        for operation in ("list", "retrieve"):
            harness.emulator.add_fault(operation=operation, kind=fault, times=None)
    assert await run_twice(harness) == ["held"]
    assert harness.paid == (2, 2)


@pytest.mark.parametrize("echo", ["exact", "redacted", "none"])
async def test_jobs_that_are_sent_at_the_same_time_do_not_hold_each_other(open_harness: OpenHarness, echo: str) -> None:
    """One was never accepted; the generations that it finds are of others, whose answers are on their way."""
    harness = open_harness(echo_prompt=echo, **WITHOUT_KEY)
    add = harness.emulator.add_fault
    add(operation="submit", kind="error_before", match={"prompt": "scene 1"})
    for number in (2, 3):
        add(operation="submit", kind="delay", seconds=0.5, match={"prompt": f"scene {number}"})
    report = await harness.run(film(*map(a_shot, (1, 2, 3))), settle_seconds=0.1)
    assert statuses(report) == ["stored"] * 3
    assert harness.paid == (3, 3)


async def test_an_outage_of_all_submits_is_settled_by_words(open_harness: OpenHarness) -> None:
    """Some were accepted and some not; each finds its own, and the others are absent."""
    harness = open_harness(**WITHOUT_KEY)
    for number in (1, 2, 3, 4):
        kind = "error_after" if number % 2 else "error_before"
        harness.emulator.add_fault(operation="submit", kind=kind, match={"prompt": f"scene {number}"})
    report = await harness.run(film(*map(a_shot, (1, 2, 3, 4))))
    assert statuses(report) == ["stored"] * 4
    assert harness.paid == (4, 4)


async def test_an_answer_that_is_recorded_while_the_ledger_is_read_leaves_no_doubt(
    open_harness: OpenHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shot 1 was not accepted; shot 2 was, and finds its generation between two reads of shot 1's search."""
    harness = open_harness(**WITHOUT_KEY)
    harness.emulator.add_fault(operation="submit", kind="error_before", match={"prompt": "scene 1"})
    harness.emulator.add_fault(operation="submit", kind="error_after", match={"prompt": "scene 2"})
    read_by_first, reads = asyncio.Event(), 0
    read_recorded = Queries.recorded_generations

    async def read_slowly(jobs: Queries, account: str, *key: str | None) -> dict[str, RecordedGeneration]:
        nonlocal reads
        task = asyncio.current_task()
        assert task is not None
        if task.get_name() != "shot-1":
            await read_by_first.wait()
            return await read_recorded(jobs, account, *key)
        recorded = await read_recorded(jobs, account, *key)
        reads += 1
        if reads == 2:
            read_by_first.set()
            async with asyncio.timeout(60):
                while not any(job.shot.id == "shot-2" and job.generation_id for job in await harness.rows()):
                    await asyncio.sleep(0.01)
        return recorded

    monkeypatch.setattr(Queries, "recorded_generations", read_slowly)
    report = await harness.run(film(a_shot(1), a_shot(2)), settle_seconds=0)
    assert statuses(report) == ["stored"] * 2
    assert harness.paid == (2, 2)
