"""Videos that come late, broken, or not at all; each has been paid, and is never paid again."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_video.downloads import DEFAULT_SETTINGS
from prefect_video.downloads.media import probe
from prefect_video.generations import Generation
from prefect_video.ledger import State
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.pipeline.steps.download import _settings as find_settings
from prefect_video.pipeline.steps.download import spool_file
from prefect_video.providers.openrouter.provider import OpenRouterProvider
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.session import SessionEvent
from prefect_video.storage.publish import read_sidecar
from tests.support.recovery import RecoveryHarness, a_shot, statuses

PASSING: list[dict[str, Any]] = [
    {"operation": "content", "kind": "expired_link"},
    {"operation": "content", "kind": "truncated", "times": 2},
    {"operation": "content", "kind": "slow", "bytes_per_second": 200_000},
    {"operation": "content", "kind": "wrong_content"},
    {"operation": "content", "kind": "reset_before", "times": 2},
    {"operation": "content", "kind": "error_before"},
    {"operation": "content", "kind": "short_file"},
    {"operation": "content", "kind": "not_found"},
    {"operation": "content", "kind": "rate_limited", "retry_after": 0.1},
    {"operation": "retrieve", "kind": "expired_link", "times": 2},
]


def whole(path: Path) -> bool:
    """Whether a visible file is what its sidecar says, down to the last byte and frame."""
    asset = read_sidecar(path.with_suffix(".json").read_bytes())
    assert asset is not None
    return asset.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and probe(path).frames == 24


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault['operation']}-{fault['kind']}")
async def test_trouble_that_passes(harness: RecoveryHarness, fault: dict[str, Any]) -> None:
    harness.emulator.add_fault(**fault)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    (video,) = harness.videos
    assert whole(video)
    assert harness.paid == (1, 1)
    assert harness.emulator.usage()["leaked_keys"] == 0


@pytest.mark.parametrize("status", [401, 403])
async def test_a_link_that_a_gateways_key_does_not_open_and_a_preview_before_it(
    harness: RecoveryHarness, status: int
) -> None:
    emulator = harness.emulator

    def behind_gateway(**_: Any) -> OpenRouterProvider:
        models = {"sora-2": "emulator/video"}
        return OpenRouterProvider(api_key=emulator.key, base_url=f"{emulator.url}/api/v1", models=models)

    emulator.add_fault(operation="content", kind="denied", denied_status=status)
    emulator.add_fault(operation="retrieve", kind="preview_first", times=None)
    assert statuses(await harness.run(a_shot(), kind=behind_gateway)) == ["stored"]
    assert harness.paid == (1, 1)
    assert emulator.usage()["leaked_keys"] == 0


class Reticent(SoraProvider):
    """A provider that does not tell how large its files are."""

    async def retrieve(self, generation_id: str) -> Generation:
        generation = await super().retrieve(generation_id)
        result = generation.result and generation.result.model_copy(update={"file_size": None})
        return generation.model_copy(update={"result": result})


async def test_a_file_that_stays_cut_is_held_and_nothing_is_bought_in_its_place(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="short_file", times=None)
    for _ in range(2):
        report = await harness.run(a_shot(), kind=Reticent)
        assert statuses(report) == ["held"]
        assert "prefect-video resolve" in str(report.shots[0].error)
    assert harness.videos == []
    job = await harness.row()
    assert job.state is State.COMPLETED
    assert job.hold_reason
    assert harness.emulator.usage()["downloaded"] == 2
    assert harness.paid == (1, 1)


async def test_a_file_of_another_size_than_promised_is_fetched_later(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="short_file", times=None)
    assert statuses(await harness.run(a_shot())) == ["failed"]
    assert harness.videos == []
    harness.emulator.clear_faults()
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


async def test_a_spool_file_of_another_video_is_fetched_again(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "submitted")
    assert statuses(await harness.run(a_shot(2, duration=2))) == ["stored"]
    (other,) = harness.videos
    # As where the generation of a job was lost, and the job got another one.
    job, other_job = await harness.rows()
    async with harness.session() as session:
        spool = spool_file(session, job.model_copy(update={"generation_id": other_job.generation_id}))
        assert spool != spool_file(session, job)
    spool.write_bytes(other.read_bytes())
    assert statuses(await harness.run(a_shot(), kind=Reticent)) == ["stored"]
    assert sorted(probe(path).frames for path in harness.videos) == [24, 48]
    assert harness.paid == (2, 2)


async def test_a_download_that_was_interrupted_is_continued(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="truncated")
    harness.emulator.add_fault(operation="content", kind="hang", seconds=60)
    run: asyncio.Task[ProjectReport] = asyncio.create_task(harness.run(a_shot()))
    async with asyncio.timeout(60):
        while harness.emulator.usage()["requests"].get("content", 0) < 2:
            await asyncio.sleep(0.02)
    run.cancel()
    await asyncio.wait([run])
    (part,) = (harness.folder / "spool").glob("*.part")
    kept = part.stat().st_size
    assert kept > 0
    before = harness.emulator.usage()["download_bytes"]
    assert statuses(await harness.run(a_shot())) == ["stored"]
    (video,) = harness.videos
    assert whole(video)
    assert harness.emulator.usage()["download_bytes"] - before == video.stat().st_size - kept
    assert harness.paid == (1, 1)


async def test_a_completed_generation_that_the_provider_drops_is_held(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "downloading")
    assert (await harness.row()).state is State.COMPLETED
    harness.emulator.add_fault(operation="retrieve", kind="not_found", times=None)
    assert statuses(await harness.run(a_shot())) == ["held"]
    harness.emulator.clear_faults()
    assert statuses(await harness.run(a_shot())) == ["held"]
    job = await harness.row()
    assert job.state is State.EXPIRED
    assert job.hold_reason
    assert harness.paid == (1, 1)


async def test_a_completed_generation_that_is_reported_in_progress_is_fetched_later(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "downloading")
    harness.emulator.add_fault(operation="retrieve", kind="unknown_status")
    assert statuses(await harness.run(a_shot())) == ["failed"]
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


@pytest.mark.parametrize(("age_seconds", "left_seconds"), [(0, 30), (20, 10), (3600, 0)])
async def test_a_file_is_waited_for_until_half_a_minute_after_its_generation_has_completed(
    harness: RecoveryHarness, age_seconds: float, left_seconds: float
) -> None:
    await harness.interrupt(a_shot(), SessionEvent.DOWNLOADING)
    job = await harness.row()
    async with harness.session() as session:
        # Anything else that has happened to the job since does not count.
        completed = datetime.now(UTC) - timedelta(seconds=age_seconds)
        job = job.model_copy(update={"completed_at": completed, "updated_at": datetime.now(UTC) - timedelta(hours=2)})
        assert find_settings(session, job).unready_seconds == pytest.approx(left_seconds, abs=2)


async def test_the_least_speed_is_the_sessions_and_averaged_over_half_a_minute(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), SessionEvent.DOWNLOADING)
    async with harness.session(download_min_bytes_per_second=12_345) as session:
        settings = find_settings(session, await harness.row())
    assert settings.min_bytes_per_second == 12_345
    assert settings.speed_window_seconds == DEFAULT_SETTINGS.speed_window_seconds == 30
