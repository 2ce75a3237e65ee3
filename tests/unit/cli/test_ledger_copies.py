"""`ledger prune`, `ledger export` and `ledger backup` on the command line."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from prefect_video.ledger import Job, Ledger, State, exports, jobs_table
from prefect_video.shots import Shot
from tests.support.cli_fixtures import InProcess
from tests.support.old_jobs import age, release
from tests.support.records import claim_one, store_one, submit_one


async def fill() -> list[Job]:
    async with await Ledger.open() as ledger:
        return [await store_one(ledger, 1), await submit_one(ledger, 2)]


def test_a_ledger_is_exported_backed_up_while_open_and_pruned(call: InProcess) -> None:
    stored, running = asyncio.run(fill())
    lines = [json.loads(line) for line in call("ledger", "export").out.splitlines()]
    assert [(line["id"], [step["to_state"] for step in line["history"]]) for line in lines] == [
        (stored.id, ["reserved", "submitting", "submitted", "completed", "stored"]),
        (running.id, ["reserved", "submitting", "submitted"]),
    ]
    assert call("ledger", "export", "--format", "csv", "--table", "history", "--output", "steps.csv").status == 0
    steps = list(csv.DictReader(io.StringIO(Path("steps.csv").read_text())))
    assert [step["job_id"] for step in steps] == [stored.id] * 5 + [running.id] * 3

    async def back_up_beside_a_writer() -> None:
        async with await Ledger.open() as ledger, ledger._database.writing():
            assert (await ledger.back_up(Path("copy.db").absolute())) > 0

    asyncio.run(back_up_beside_a_writer())
    copied = call("ledger", "export", "--ledger", "copy.db").out
    assert [json.loads(line)["id"] for line in copied.splitlines()] == [stored.id, running.id]
    again = call("ledger", "backup", "copy.db")
    assert (again.status, "exists already" in again.err) == (2, True)
    assert call("ledger", "prune", "--older-than", "3 months").status == 2
    pruned = call("ledger", "prune", "--older-than", "90d", "--dry-run", "--json").json
    assert pruned == {
        "removed": {"history": 0, "idempotency_keys": 0, "jobs": 0, "webhook_events": 0},
        "dry_run": True,
    }


def test_no_cell_of_an_exported_table_is_a_formula_or_commands_a_terminal(call: InProcess) -> None:
    hostile = "=cmd|x\x1b[2J"

    async def fill_hostile() -> None:
        shot = Shot(id="sea", prompt=f"{hostile[:6]}\u202e", model=hostile)
        async with await Ledger.open() as ledger:
            job = await submit_one(ledger, 1, project=hostile, degraded=hostile, shot=shot)
            await ledger.jobs.record_ended(job.id, State.FAILED, hostile, actual_usd=None)

    asyncio.run(fill_hostile())
    exported = {name: call("ledger", "export", "--format", "csv", "--table", name).out for name in ("jobs", "history")}
    for text in exported.values():
        assert {"\x1b", "\u202e"}.isdisjoint(text)
    (job,) = csv.DictReader(io.StringIO(exported["jobs"]))
    for column in ("project", "degraded", "error_message"):
        assert job[column] == "'=cmd|x\\u001b[2J", column
    # The shot is a record: its model and its prompt are within JSON, which begins a cell as no formula does.
    assert job["shot"].startswith("{")
    assert json.loads(job["shot"])["model"] == hostile
    *_, end = csv.DictReader(io.StringIO(exported["history"]))
    assert any(cell.startswith("'=cmd|x\\u001b") for cell in end.values())


def test_prune_removes_what_is_old_and_not_needed(call: InProcess) -> None:
    async def fill_with_old() -> tuple[Job, Job]:
        async with await Ledger.open() as ledger:
            released, stored = await release(ledger, 1), await store_one(ledger, 2)
            await age(ledger, released, stored)
            return released, stored

    released, stored = asyncio.run(fill_with_old())
    pruned = call("ledger", "prune", "--older-than", "90d", "--json").json
    assert pruned["dry_run"] is False
    # Two lines of the reservation, and five of the video.
    assert pruned["removed"] == {"history": 7, "idempotency_keys": 0, "jobs": 1, "webhook_events": 0}
    left = [json.loads(line) for line in call("ledger", "export").out.splitlines()]
    assert [(line["id"], line["history"]) for line in left] == [(stored.id, [])]
    assert released.id != stored.id


def test_an_export_of_several_pages_has_each_job_once_in_order(
    call: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "CHUNK", 2)
    begin = datetime(2026, 1, 1, tzinfo=UTC)

    async def fill_pages() -> list[str]:
        async with await Ledger.open() as ledger:
            lowest, *others, highest = sorted([(await claim_one(ledger, number)).id for number in range(5)])
            ids = [highest, *others, lowest]
            # The second and the third began in the same moment, and a page ends between them.
            for id, seconds in zip(ids, (0, 1, 1, 2, 3), strict=True):
                moment = update(jobs_table).where(jobs_table.c.id == id)
                async with ledger._database.writing() as connection:
                    await connection.execute(moment.values(created_at=begin + timedelta(seconds=seconds)))
            return ids

    ids = asyncio.run(fill_pages())
    assert [json.loads(line)["id"] for line in call("ledger", "export").out.splitlines()] == ids


def test_a_table_of_jobs_has_every_field_and_no_formula(call: InProcess) -> None:
    async def claim_formula() -> Job:
        async with await Ledger.open() as ledger:
            return await claim_one(ledger, shot=Shot(id="sum", prompt="=1+1"), project="=film")

    job = asyncio.run(claim_formula())
    answer = call("ledger", "export", "--format", "csv", "--output", "jobs.csv")
    assert (answer.status, answer.err.strip()) == (0, "1 line: jobs.csv")
    header, *rows = csv.reader(io.StringIO(Path("jobs.csv").read_text()))
    assert header == list(Job.model_fields)
    (row,) = [dict(zip(header, row, strict=True)) for row in rows]
    assert (row["id"], row["project"]) == (job.id, "'=film")
    assert json.loads(row["shot"])["prompt"] == "=1+1"
    assert [cell for cell in row.values() if cell.startswith(("=", "+", "-", "@"))] == []
