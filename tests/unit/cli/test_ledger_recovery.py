"""`ledger recover`: its output, the jobs that it writes, and its exit status."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prefect_video.ledger import Ledger
from prefect_video.pipeline.entry_points import run_project
from prefect_video.projects import Project
from prefect_video.session import SessionRef, open_session
from prefect_video.shots import Shot
from tests.support.cli_fixtures import InProcess

FILM = Project(name="film", shots=(Shot(id="lost", prompt="a lost reel", duration=1, resolution="480p"),))


def run_film(ledger: Path | None = None) -> None:
    async def run() -> None:
        async with await open_session(
            SessionRef.from_names("emulator", ledger=str(ledger) if ledger else None)
        ) as session:
            report = await run_project(session, FILM)
            assert [shot.status for shot in report.shots] == ["stored"]

    asyncio.run(run())


def read_identity() -> str:
    async def read() -> str:
        async with await Ledger.open() as ledger:
            return ledger.identity

    return asyncio.run(read())


def test_a_lost_ledger_is_recovered_from_the_store(call: InProcess, tmp_path: Path) -> None:
    run_film()
    lost = read_identity()
    options = ("ledger", "recover", "--ledger", tmp_path / "new.db", "--store", "videos", "--provider", "emulator")

    answer = call(*options, "--json")
    assert answer.status == 1
    sidecars = [job for job in answer.json["jobs"] if job["source"].endswith(".json")]
    assert [job["outcome"] for job in sidecars] == ["left"]
    assert f"--lost-ledger {lost}" in sidecars[0]["reason"]

    answer = call(*options, "--lost-ledger", lost, "--dry-run")
    assert "nothing was written (--dry-run)" in answer.out
    answer = call(*options, "--lost-ledger", lost, "--json")
    (job,) = (job for job in answer.json["jobs"] if job["shot_id"] == "lost")
    assert (job["outcome"], job["project"], job["cost_usd"] > 0) == ("stored", "film", True)
    again = call(*options, "--lost-ledger", lost, "--json")
    assert not [job for job in again.json["jobs"] if job["shot_id"] == "lost"]
    jobs = call("jobs", "--ledger", tmp_path / "new.db", "--json").json["jobs"]
    (row,) = (row for row in jobs if row["shot"] == "lost")
    assert (row["id"], row["state"], row["actual_usd"]) == (job["job_id"], "stored", job["cost_usd"])
