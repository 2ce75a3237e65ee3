"""Rows of the ledger with a damaged column: one error that names it, and nothing else is stopped or bought."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import text

from prefect_video.errors import UnreadableRow
from prefect_video.ledger import State
from prefect_video.pipeline import plan_project, run_project
from tests.support.recovery import RecoveryHarness, a_shot, collect_with, film, statuses


@pytest.mark.parametrize("column", ["asset", "shot", "quality", "quality_policy"])
async def test_a_damaged_row_fails_its_own_shot_and_nothing_is_bought_for_it(
    harness: RecoveryHarness, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    await harness.run(film(a_shot(1), a_shot(2)))
    await harness.interrupt(film(a_shot(3)), "submitted")
    harness.emulator.wait_until_idle()
    async with harness.session() as session:
        damaged = next(row for row in await harness.rows() if row.shot.id == "shot-1")
        async with session.ledger._database.writing() as connection:
            await connection.execute(text(f"UPDATE jobs SET {column} = '{{\"half' WHERE id = :id"), {"id": damaged.id})

        with pytest.raises(UnreadableRow, match=f"row {damaged.id} of jobs .* its column {column} is damaged"):
            await session.ledger.jobs.get(damaged.id)
        with caplog.at_level(logging.ERROR):
            assert [line.outcome for line in await collect_with(session)] == ["stored"]
            assert {job.shot.id for job in await session.ledger.jobs.find(limit=None)} == {"shot-2", "shot-3"}
            assert len(await session.ledger.jobs.page(limit=2)) == 2
            assert len([job async for job, _ in session.ledger.exports.stream()]) == 2
        assert f"its column {column} is damaged" in caplog.text
        (spent,) = await session.ledger.spend.report(by="project", project="film")
        assert spent.videos == 3

        plan = await plan_project(session, film(a_shot(1), a_shot(2)))
        assert [shot.action for shot in plan.shots] == ["held", "cached"]
        report = await run_project(session, film(a_shot(1), a_shot(2), a_shot(3), a_shot(4, depends_on=("shot-1",))))
        assert statuses(report) == ["failed", "stored", "stored", "skipped"]
        assert f"its column {column} is damaged" in str(report.shots[0].error)
        assert "restore the ledger from a backup" in str(report.shots[0].error)
        async with session.ledger._database.writing() as connection:
            left = await connection.execute(text("SELECT state FROM jobs WHERE id = :id"), {"id": damaged.id})
            assert left.scalar_one() == State.STORED.value
    assert harness.paid == (3, 3)
