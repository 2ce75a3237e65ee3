"""A project that is split: its parts, the reservation of all of them, and the report of the whole."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from prefect_video.emulator import Emulator
from prefect_video.errors import BudgetExceeded, LedgerUnavailable
from prefect_video.ledger import PARTS_PREFIX, Job, State
from prefect_video.pipeline import ProjectReport, collect, reserve_project, run_project, split_project
from prefect_video.projects import Project
from prefect_video.session import Session, SessionRef, open_session, ref_for_job
from tests.support.service_fixtures import environment, provider, sqlite_url

__all__ = ["environment", "provider", "sqlite_url"]

RUN = "0b6d6f6e-8f0e-4a63-9a3c-2a3f0f1f8a11"


def project(*prompts: str, **given: object) -> Project:
    shots = [{"id": f"s{number}", "prompt": prompt} for number, prompt in enumerate(prompts)]
    return Project.model_validate(
        {"project": "film", "defaults": {"duration": 1, "resolution": "480p"}, "shots": shots, **given}
    )


def test_what_needs_one_another_stays_together() -> None:
    shots = [
        {"id": "a", "prompt": "a"},
        {"id": "b", "prompt": "b", "depends_on": ["a"]},
        {"id": "c", "prompt": "c", "takes": 3},
        {"id": "d", "prompt": "d", "continue_from": "b"},
        {"id": "e", "prompt": "e"},
    ]
    parts = split_project(project(shots=shots, budget_usd=5, cut={}, fan_out=2), 2)
    assert [[shot.id for shot in part.shots] for part in parts] == [["a", "b", "d", "e"], ["c"]]
    assert {(part.name, part.budget_usd, part.cut, part.fan_out) for part in parts} == {
        ("film", Decimal(5), None, None)
    }
    assert len(split_project(project(shots=shots), 10)) == 3, "as many as can be apart"


async def make_part(whole: Project, number: int) -> ProjectReport:
    """Make one of two parts in a session of its own, as another process does."""
    async with await open_session(SessionRef.from_names()) as session:
        return await run_project(session, split_project(whole, 2)[number], flow_run_id=RUN)


@asynccontextmanager
async def open_job(job: Job) -> AsyncIterator[Session]:
    """Open the session that a job was made with."""
    async with await open_session(ref_for_job(job, None)) as session:
        yield session


async def test_the_budget_of_all_parts_is_reserved_before_the_first_begins(
    environment: Path, provider: Emulator
) -> None:
    """One part alone would fit: the whole is refused before it begins."""
    async with await open_session(SessionRef.from_names()) as session:
        with pytest.raises(BudgetExceeded):
            await reserve_project(session, project("one", "two", budget_usd="0.50"), flow_run_id=RUN)
        assert provider.usage()["submitted"] == 0

        whole = project("one", "two", "[fail] three", budget_usd="0.90")
        await reserve_project(session, whole, flow_run_id=RUN)
        # Another run finds the budget taken, and `collect` leaves the reservations to the parts.
        with pytest.raises(BudgetExceeded):
            await run_project(session, project("four", budget_usd="0.90"))
        await collect(session.ledger, open_job)
        reserved = await session.ledger.jobs.find(flow_run_id=f"{PARTS_PREFIX}{RUN}", limit=None)
        assert [job.state for job in reserved] == [State.RESERVED] * 3

        began_at = datetime.now(UTC)
        await asyncio.gather(make_part(whole, 0), make_part(whole, 1))
        billed = provider.usage()["billed"]
        report = await run_project(session, whole, flow_run_id=RUN, began_at=began_at)
    assert {shot.id: (shot.status, shot.cached, shot.cost_usd) for shot in report.shots} == {
        "s0": ("stored", False, Decimal("0.30")),
        "s1": ("stored", False, Decimal("0.30")),
        "s2": ("failed", False, Decimal(0)),
    }
    usage = provider.usage()
    assert usage["billed"] == billed == 2
    assert usage["by_prompt"]["[fail] three"]["accepted"] == 2, "its attempts are those of the run, not of each part"


async def test_reservations_that_a_ledger_in_trouble_does_not_release_are_free_for_the_parts_after_a_heartbeat(
    environment: Path, provider: Emulator
) -> None:
    """The run that has split the project lives on, and waits for its parts: they would wait for it."""
    whole = project("one", "two")
    failed: list[str] = []

    def fail(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if not failed and sql.startswith("UPDATE jobs SET owner="):
            failed.append(sql)
            raise sqlite3.OperationalError("disk I/O error")

    async with await open_session(SessionRef.from_names()) as session:
        event.listen(session.ledger._database.engine.sync_engine, "before_cursor_execute", fail)
        with pytest.raises(LedgerUnavailable, match="disk I/O error"):
            await reserve_project(session, whole, flow_run_id=RUN)
        assert {job.owner for job in await session.ledger.jobs.unfinished()} == {session.ledger.owner_id}
        await session.ledger.claims.release_left()
        assert {job.owner for job in await session.ledger.jobs.unfinished()} == {None}
        await asyncio.gather(make_part(whole, 0), make_part(whole, 1))
    assert provider.usage()["billed"] == 2


async def test_a_run_that_splits_again_buys_nothing_that_its_parts_have_made(
    environment: Path, provider: Emulator
) -> None:
    """A retry, a restart after a crash and the way on from an approval all reserve the project once more."""
    whole = project("one", "two", "[fail] three")
    for _ in range(2):
        async with await open_session(SessionRef.from_names()) as session:
            await reserve_project(session, whole, flow_run_id=RUN, refresh=True)
            report = await run_project(session, whole, flow_run_id=RUN, refresh=True)
            assert [shot.status for shot in report.shots] == ["stored", "stored", "failed"]
    usage = provider.usage()
    assert {prompt: usage["by_prompt"][prompt]["accepted"] for prompt in ("one", "two", "[fail] three")} == {
        "one": 1,
        "two": 1,
        "[fail] three": 2,
    }, "refreshed once, and tried as often as a run may"


async def test_a_refresh_that_was_left_at_the_provider_is_finished_although_an_older_video_is_stored(
    environment: Path, provider: Emulator
) -> None:
    film = project("one")
    async with await open_session(SessionRef.from_names()) as session:
        (stored,) = (await run_project(session, film)).shots
        (left,) = (await run_project(session, film, refresh=True, wait=False)).shots
        assert (stored.status, left.status) == ("stored", "in_flight")
    for _ in range(2):
        async with await open_session(SessionRef.from_names()) as session:
            (shot,) = (await run_project(session, film)).shots
        assert shot.asset is not None
        assert shot.asset.generation_id == left.generation_id != stored.asset.generation_id
    assert provider.usage()["billed"] == 2


async def test_a_deferred_run_is_on_record_before_its_parts_begin(environment: Path, provider: Emulator) -> None:
    """The run that splits the project may be killed while its parts are at work: `collect` completes the whole."""
    whole = project("one", "two")
    async with await open_session(SessionRef.from_names()) as session:
        await reserve_project(session, whole, flow_run_id=RUN, wait=False)
        (recorded,) = await session.ledger.deferred.find(run_id=RUN)
        assert recorded.project == whole
        await run_project(session, split_project(whole, 2)[0], flow_run_id=RUN, wait=False, is_part=True)
        assert [run.project for run in await session.ledger.deferred.find()] == [whole], "a part records nothing"
        assert provider.usage()["accepted"] == 1
