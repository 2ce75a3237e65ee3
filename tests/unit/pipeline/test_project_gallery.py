"""Gallery of a run: a page that cannot be made takes nothing from the report of what was paid."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from prefect_video.pipeline import publish_run, run_project
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses


async def test_a_disk_without_room_for_the_page_loses_no_report(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = film(a_shot())
    async with harness.session() as session:
        report = await run_project(session, project)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        assert await publish_run(session, project, report) == report
    assert statuses(report) == ["stored"]
    assert harness.paid == (1, 1)
