"""Films in a bucket: published with their records and previews, found again without a write."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from prefect_video import Project, SessionRef, cut_project, open_session, run_project
from prefect_video.emulator import Emulator, EmulatorSettings
from tests.support.s3_server import S3Server


async def test_a_film_in_a_bucket_is_made_once(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.options["endpoint_url"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.options["secret"])
    monkeypatch.setenv("PREFECT_VIDEO_SPOOL", str(tmp_path / "spool"))
    shots = [{"id": name, "prompt": name, "duration": 1, "resolution": "480p"} for name in ("one", "two")]
    cut = {"transition": "crossfade", "encoder": {"codec": "libx264", "preset": "ultrafast"}}
    project = Project.model_validate({"project": "film", "shots": shots, "cut": cut})
    ref = SessionRef.from_names("emulator", f"s3://{bucket}/films", str(tmp_path / "ledger.db"))
    with Emulator(EmulatorSettings(port=0, speed=500.0, render="plate")) as emulator:
        monkeypatch.setenv("PREFECT_VIDEO_EMULATOR_ENDPOINT", emulator.endpoint)
        async with await open_session(ref) as session:
            report = await run_project(session, project)
            assert report.film is not None
            assert (report.film.status, report.film.seconds) == ("made", pytest.approx(1.5, abs=0.1))
            files = {file.uri: file.bytes async for file in session.store.files("film")}
            endings = {urlsplit(uri).path.rpartition("/film.")[2].partition(".")[2] for uri in files if "/film." in uri}
            assert endings == {"", "mp4", "json", "jpg", "sheet.jpg", "preview.webp"}
            assert files[str(report.film.uri)] == report.film.bytes

            again = await cut_project(session, project)
            assert (again.status, again.sha256) == ("cached", report.film.sha256)
            assert {file.uri: file.bytes async for file in session.store.files("film")} == files
