"""Requests that a shot costs a bucket, from claim to stored; `docs/operations.md` says what each is for."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from aiobotocore.client import AioBaseClient

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.pipeline import run_project
from prefect_video.projects import Project
from prefect_video.session import SessionRef, folder_listings, open_session
from prefect_video.shots import Shot
from tests.support.s3_server import S3Server


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record each request to S3: its operation, and the end of its key's name."""
    sent: list[tuple[str, str]] = []
    request = AioBaseClient._make_api_call

    async def record(self: AioBaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        sent.append((operation, PurePosixPath(parameters.get("Key", "")).suffix))
        return await request(self, operation, parameters)

    monkeypatch.setattr(AioBaseClient, "_make_api_call", record)
    return sent


async def test_a_shot_costs_eight_requests_and_a_run_two(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: list[tuple[str, str]]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.options["endpoint_url"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.options["secret"])
    monkeypatch.setenv("PREFECT_VIDEO_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setenv("PREFECT_VIDEO_SPOOL", str(tmp_path / "spool"))
    with Emulator(EmulatorSettings(port=0, speed=500.0, render="plate")) as emulator:
        monkeypatch.setenv("PREFECT_VIDEO_EMULATOR_ENDPOINT", emulator.endpoint)
        async with await open_session(SessionRef.from_names("emulator", store=f"s3://{bucket}/films")) as session:

            async def run(*names: str) -> list[tuple[str, str]]:
                requests.clear()
                shots = tuple(Shot(id=name, prompt=name, duration=1, resolution="480p") for name in names)
                report = await run_project(session, Project(name="film", shots=shots))
                assert [shot.status for shot in report.shots] == ["stored"] * len(names)
                return sorted(requests)

            # The first one checks the store and marks it.
            monkeypatch.setattr(folder_listings, "_RECENT_SECONDS", 0.0)
            await run("first")
            per_run = [("GetObject", ".json"), ("ListObjectsV2", "")]
            per_shot = [
                ("GetObject", ".json"),
                ("HeadObject", ".json"),
                ("HeadObject", ".json"),  # of a rejected video
                ("HeadObject", ".mp4"),
                ("HeadObject", ".mp4"),
                ("PutObject", ".jpg"),
                ("PutObject", ".json"),
                ("PutObject", ".mp4"),
            ]
            assert await run("second") == sorted(per_run + per_shot)
            assert await run("third", "fourth", "fifth") == sorted(per_run + 3 * per_shot)
            # A service claims its videos one by one, and lists their folder from time to time.
            monkeypatch.setattr(folder_listings, "_RECENT_SECONDS", 600.0)
            assert await run("sixth") == sorted([("GetObject", ".json"), *per_shot])
