"""Final cuts of emulated shots through the real client: made, found again, waiting, failed, cancelled."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image, ImageChops, ImageStat

from prefect_video.errors import FilmError, InvalidInput
from prefect_video.film import StoredFilm
from prefect_video.pipeline import (
    choose_take,
    cut_project,
    drop_shot,
    observe_films,
    plan_project,
    run_project,
    verify_store,
)
from prefect_video.pipeline.steps.film_place import find_current_film
from prefect_video.projects import Project
from tests.support.films import read_frames, write_clip
from tests.support.recovery import RecoveryHarness
from tests.support.recovery_fixtures import OpenHarness

QUICK = {"codec": "libx264", "preset": "ultrafast", "crf": 14}


def a_project(*, takes: int = 1, **cut: Any) -> Project:
    shots = [{"id": "one", "prompt": "dawn over the sea", "takes": takes}, {"id": "two", "prompt": "dusk in a forest"}]
    defaults = {"duration": 2, "resolution": "480p"}
    return Project.model_validate(
        {"project": "film", "defaults": defaults, "shots": shots, "cut": {"encoder": QUICK, **cut}}
    )


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file below a folder, hidden ones too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def path_of(uri: str | None) -> Path:
    return Path(urlsplit(str(uri)).path)


async def test_a_run_ends_in_a_film_that_a_second_one_finds(open_harness: OpenHarness) -> None:
    harness = open_harness(render="full", speed=200)
    store = harness.folder / "store"
    project = a_project(
        transition={"type": "crossfade", "seconds": 1}, captions=[{"start": 0, "end": 0.5, "text": "Hello"}]
    )
    async with harness.session() as session:
        assert (await plan_project(session, project)).film_seconds == 3.0
        report = await run_project(session, project)
    film = report.film
    assert film is not None
    assert (film.status, film.seconds, report.public()["film"]["uri"]) == ("made", pytest.approx(3, abs=0.1), film.uri)

    frames = read_frames(path_of(film.uri))
    first, second = (read_frames(path_of(shot.uri)) for shot in report.shots)
    assert len(frames) == 72
    # Half of the crossfade is over at frame 36: it shows frame 36 of the first clip and frame 12 of the second.
    mean = Image.blend(first[36], second[12], 0.5)
    assert _difference(frames[36], mean) < 3 < _difference(first[36], second[12])
    assert _difference(frames[20], first[20]) < 3
    assert _difference(frames[60], second[36]) < 3

    recorded = StoredFilm.model_validate_json((store / "film" / "film.json").read_bytes())
    assert recorded.uri == film.uri
    assert [item.sha256 for item in recorded.ingredients] == [shot.sha256 for shot in report.shots]
    assert [item.fingerprint for item in recorded.ingredients] == [
        shot.asset.fingerprint for shot in report.shots if shot.asset
    ]
    for uri in (film.thumbnail_uri, film.sheet_uri, film.preview_uri):
        with Image.open(path_of(uri)) as picture:
            assert picture.width >= 320

    before, paid = snapshot(store), harness.paid
    async with harness.session() as session:
        again = await run_project(session, project)
        alone = await cut_project(session, project)
        verification = await verify_store(session.ledger, session.store)
    assert again.film is not None
    assert (again.film.status, alone.status, alone.sha256) == ("cached", "cached", film.sha256)
    assert (snapshot(store), harness.paid) == (before, paid)
    assert verification.is_whole
    assert verification.unknown_files == ()

    # Another cut of the same shots is another film, and the latest one is the current one.
    async with harness.session() as session:
        other = await cut_project(session, a_project())
        current = await find_current_film(session.store, "film")
    assert other.status == "made"
    assert current is not None
    assert current.uri == other.uri != film.uri
    assert path_of(film.uri).exists()


def _difference(first: Image.Image, second: Image.Image) -> float:
    return sum(ImageStat.Stat(ImageChops.difference(first.convert("RGB"), second.convert("RGB"))).mean) / 3


async def test_a_take_that_is_named_is_used_and_progress_is_seen(harness: RecoveryHarness) -> None:
    project = a_project(takes=2, order=["two", {"shot": "one", "take": 2}, {"shot": "one", "take": 1}])
    shares: list[float] = []
    with observe_films(shares.append):
        async with harness.session() as session:
            report = await run_project(session, project)
            film = await find_current_film(session.store, "film")
    assert report.film is not None
    assert report.film.seconds == pytest.approx(6, abs=0.1)
    assert film is not None
    assert [(item.shot_id, item.take) for item in film.ingredients] == [("two", 1), ("one", 2), ("one", 1)]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.2 < shares[-1] == 1


async def test_what_is_not_stored_is_listed_and_nothing_is_sent(harness: RecoveryHarness) -> None:
    project = a_project()
    async with harness.session() as session:
        with pytest.raises(FilmError, match=r"2 of the shots in the cut are not stored, or not chosen: one, two"):
            await cut_project(session, project)
        assert harness.emulator.usage()["submitted"] == 0
        harness.emulator.add_fault(operation="submit", kind="blocked", match={"prompt": "forest"}, times=None)
        report = await run_project(session, project)
    assert [shot.status for shot in report.shots].count("stored") == 1
    assert report.film is not None
    assert report.film.status == "waiting"
    assert "two not stored, or not chosen, yet" in str(report.film.error)
    assert "prefect-video cut PROJECT_FILE" in str(report.film.error)


async def test_a_failed_film_leaves_its_shots_stored_and_says_how_to_repeat(
    harness: RecoveryHarness, tmp_path: Path
) -> None:
    music = write_clip(tmp_path / "music.mp4", "#000000", hz=220, size=(64, 64), seconds=1)
    project = a_project(music=str(music))
    async with harness.session() as session:
        report = await run_project(session, project, on_report=lambda shot: music.unlink(missing_ok=True))
        assert [shot.status for shot in report.shots] == ["stored", "stored"]
        assert report.film is not None
        assert report.film.status == "failed"
        assert "music.mp4: cannot be read" in str(report.film.error)
        assert "prefect-video cut PROJECT_FILE" in str(report.film.error)
        assert report.has_failed
        assert "film: failed" in report.summary()
        # Before anything is paid, by each of the doors.
        for attempt in (run_project, plan_project, cut_project):
            with pytest.raises(InvalidInput, match=r"cut: .*music\.mp4: there is no such file"):
                await attempt(session, project)
    assert not list((tmp_path / "store").rglob("film.*"))
    assert harness.paid == (2, 2)


async def test_a_cancelled_cut_leaves_nothing_and_the_loop_is_free_meanwhile(
    harness: RecoveryHarness, tmp_path: Path
) -> None:
    project = a_project(title_card={"text": "Hello", "seconds": 30})
    async with harness.session() as session:
        await run_project(session, project.model_copy(update={"cut": None}))
        before = snapshot(tmp_path / "store")
        loop, begun, turns = asyncio.get_running_loop(), asyncio.Event(), 0
        work = asyncio.create_task(
            cut_project(
                session, project, on_progress=lambda share: share > 0.05 and loop.call_soon_threadsafe(begun.set)
            )
        )
        while not begun.is_set():
            await asyncio.sleep(0)
            turns += 1
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert turns > 10
    assert snapshot(tmp_path / "store") == before
    assert not list((tmp_path / "spool").glob(".film-*"))


async def test_the_chosen_take_is_used_and_a_dropped_shot_is_left_out(harness: RecoveryHarness) -> None:
    data = a_project().model_dump(mode="json", by_alias=True)
    first, second = data["shots"]
    shots = [
        {**first, "takes": 2, "choose": "human"},
        {**second, "continue_from": "one"},
        {**first, "id": "three", "prompt": "night in a town", "choose": "human"},
    ]
    project = Project.model_validate({**data, "shots": shots})
    async with harness.session() as session:
        by = {"by": "test", "environment": session.settings.environment}
        waiting = (await run_project(session, project)).film
        assert waiting is not None
        assert (waiting.status, "one, two not stored, or not chosen" in str(waiting.error)) == ("waiting", True)

        await choose_take(session.ledger, "film", "one", 2, **by)
        made = (await run_project(session, project)).film
        film = await find_current_film(session.store, "film")
        assert made is not None
        assert film is not None
        assert [(item.shot_id, item.take) for item in film.ingredients] == [("one", 2), ("two", 1), ("three", 1)]
        # The second clip begins with the last frame of the first, which is not shown twice.
        assert film.frames == 3 * 48 - 1
        assert await cut_project(session, project) == made.model_copy(update={"status": "cached"})

        await drop_shot(session.ledger, "film", "three", **by)
        shorter = await cut_project(session, project)
        again = (await run_project(session, project)).film
    assert shorter.seconds == pytest.approx(95 / 24, abs=0.05)
    assert again == shorter.model_copy(update={"status": "cached"})
