"""The gallery in a bucket: published beside the videos, with relative links, and told apart from unknown files."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.emulator.threaded import Emulator
from prefect_video.gallery import publish_index
from prefect_video.pipeline import publish_run, run_project, verify_store
from prefect_video.projects import Project
from prefect_video.session import SessionRef, open_session
from prefect_video.shots import Shot
from tests.support.s3_server import S3Server


async def test_a_page_in_a_bucket_links_to_what_lies_beside_it(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: PurePosixPath
) -> None:
    options = s3.options
    for name, value in {
        "AWS_ENDPOINT_URL": options["endpoint_url"],
        "AWS_ACCESS_KEY_ID": options["key"],
        "AWS_SECRET_ACCESS_KEY": options["secret"],
        "AWS_DEFAULT_REGION": options.get("region", "us-east-1"),
        "PREFECT_VIDEO_LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
        "PREFECT_VIDEO_SPOOL": str(tmp_path / "spool"),
    }.items():
        monkeypatch.setenv(name, value)
    project = Project(name="film", shots=(Shot(id="opening", prompt="dawn", duration=1, resolution="480p"),))
    with Emulator(EmulatorSettings(port=0, speed=500.0, render="plate")) as emulator:
        monkeypatch.setenv("PREFECT_VIDEO_EMULATOR_ENDPOINT", emulator.endpoint)
        async with await open_session(SessionRef.from_names("emulator", f"s3://{bucket}/ads")) as session:
            report = await publish_run(session, project, await run_project(session, project))
            await publish_index(session.store)
            page = (await session.store.read_bytes(f"s3://{bucket}/ads/film/index.html")).decode()
            index = (await session.store.read_bytes(f"s3://{bucket}/ads/index.html")).decode()
            verification = await verify_store(session.ledger, session.store)
    assert report.page_uri == f"s3://{bucket}/ads/film/index.html"
    uri = report.shots[0].uri
    assert uri is not None
    assert f'href="./{uri.rpartition("/")[2]}"' in page
    assert bucket not in page
    assert 'href="./film/index.html"' in index
    assert (verification.is_whole, verification.unknown_files, verification.manifest_flaws) == (True, (), ())
