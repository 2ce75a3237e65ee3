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


async def test_a_page_is_written_again_only_where_it_would_change(harness: RecoveryHarness) -> None:
    first = film(a_shot())
    async with harness.session() as session:
        report = await publish_run(session, first, await run_project(session, first))
        page, manifest = (harness.folder / "store" / "film" / name for name in ("index.html", "manifest.json"))
        written = manifest.stat().st_mtime_ns, page.stat().st_mtime_ns
        again = await publish_run(session, first, await run_project(session, first))
        assert (again.page_uri, again.manifest_uri) == (report.page_uri, report.manifest_uri)
        assert (manifest.stat().st_mtime_ns, page.stat().st_mtime_ns) == written

        page.unlink()
        await publish_run(session, first, await run_project(session, first))
        assert page.stat().st_size > 0
        longer = film(a_shot(), a_shot(2))
        await publish_run(session, longer, await run_project(session, longer))
        assert "shot-2" in page.read_text()
