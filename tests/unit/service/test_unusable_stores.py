"""Stores in which no video could be published: found before paying, whichever way a request comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from prefect_video.emulator import Emulator
from tests.support.service_fixtures import Service, run_service
from tests.unit.service.test_job_api import PROJECT, wait_for_project
from tests.unit.service.test_jobs import REQUEST

PATHS: Final = ("/generate", "/v1/jobs", "/v1/batches", "/v1/projects")
"""The paths of the job API behind which videos are bought."""


async def read_refusal(service: Service, path: str) -> str:
    """Request a video, and return what the client is told at the end about why there is none."""
    bodies: dict[str, Any] = {"/v1/batches": {"jobs": [REQUEST]}, "/v1/projects": PROJECT}
    answer = await service.client.post(path, json=bodies.get(path, REQUEST))
    if path == "/v1/batches":
        (job,) = answer.json()["jobs"]
        assert job["status"] == 503, answer.text
        return str(job["problem"]["detail"])
    if path == "/v1/projects" and answer.status_code == 202:
        ended = await wait_for_project(service, answer.json()["id"])
        assert ended["status"] == "failed", ended
        return str(ended["error"])
    assert answer.status_code == 503, answer.text
    return str(answer.json()["detail"])


async def assert_no_payment(provider: Emulator, path: str, store: str, reason: str) -> None:
    """Assert that requests for a store are refused, each time with its name and the reason, and nothing is sent."""
    async with run_service() as service:
        for _ in range(2):
            refusal = await read_refusal(service, path)
            assert store in refusal
            assert reason in refusal
    assert provider.usage()["submitted"] == 0


@pytest.mark.parametrize("path", PATHS)
async def test_a_folder_below_a_file_is_found_before_paying(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    store = environment / "file" / "videos"
    store.parent.write_text("in the way")
    monkeypatch.setenv("PREFECT_VIDEO_STORE", str(store))
    await assert_no_payment(provider, path, str(store), "a part of the path is a file")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that reads as absent and cannot be made")
@pytest.mark.parametrize("path", PATHS)
async def test_a_folder_that_only_writing_shows_to_be_unusable_is_found_before_paying(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("PREFECT_VIDEO_STORE", "/proc/videos")
    await assert_no_payment(provider, path, "/proc/videos", "No such file or directory")
