"""Flows that look after a store: verification, which is red where a video is not whole, and the pages of its projects."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_video import Shot
from prefect_video.emulator import Emulator
from prefect_video.errors import StoreOutage
from prefect_video.flows import generate_shot, publish_pages, verify_videos


async def test_a_damaged_video_fails_the_run_until_it_is_repaired(session: Path, emulator: Emulator) -> None:
    shot = Shot(id="opening", prompt="Dawn", duration=1, resolution="480p")
    await generate_shot(shot, project="ad")
    assert (await verify_videos()).is_whole
    (video,) = (session / "videos" / "ad").glob("*.mp4")
    whole = video.read_bytes()
    video.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    with pytest.raises(
        StoreOutage, match=r"1 of 1 video in .* not whole; .* ad/opening: its SHA-256 is .* with repair"
    ):
        await verify_videos()
    verification = await verify_videos(repair=True)
    assert verification.is_whole
    assert [flaw.repaired for flaw in verification.flaws] == [True]
    assert video.read_bytes() == whole
    assert emulator.usage()["billed"] == 1


async def test_the_pages_of_a_store_are_made_again(session: Path, emulator: Emulator) -> None:
    for project in ("one", "two"):
        await generate_shot(Shot(id="opening", prompt=project, duration=1, resolution="480p"), project=project)
    videos = session / "videos"
    for page in videos.rglob("index.html"):
        page.unlink()
    pages = await publish_pages()
    assert pages == [f"{videos.as_uri()}/{page}" for page in ("one/index.html", "two/index.html", "index.html")]
    assert "opening" in (videos / "one" / "index.html").read_text()
    assert emulator.usage()["billed"] == 2
