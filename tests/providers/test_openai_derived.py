"""What the OpenAI Videos dialect has besides shots: remixes, edits, extensions, characters and pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import get_args

import httpx
import pytest
from PIL import Image

from prefect_video.emulator import Emulator
from prefect_video.errors import InvalidInput, NotFound, RequestRefused, SubmitUnknown, UnreadableAnswer, Unsupported
from prefect_video.generations import Status
from prefect_video.providers.openai_derived import Variant
from tests.providers.openai import ENGINES, Open, Server, job, open_profile, submit

__all__ = ["open_profile"]


@pytest.mark.parametrize("profile", ["generic", "litellm"])
async def test_videos_of_a_video(open_profile: Open, emulator: Emulator, tmp_path: Path, profile: str) -> None:
    provider = open_profile(profile)
    first = await submit(provider)
    with pytest.raises(RequestRefused, match="not completed"):
        await provider.remix(first.id, "a dog")
    emulator.settle()
    file = tmp_path / "cat.mp4"
    file.write_bytes(b"video")
    made = [
        await provider.remix(first.id, "a dog"),
        await provider.edit(first.id, "at night"),
        await provider.edit(file, "at night"),
        await provider.extend(first.id, "it jumps", seconds=4),
    ]
    assert len({first.id, *(one.id for one in made)}) == 5
    emulator.settle()
    told = [await provider.retrieve(one.id) for one in made]
    assert {one.status for one in told} == {Status.COMPLETED}
    assert told[3].parameters["seconds"] == 2 + 4
    assert emulator.books()["accepted"] == 5


async def test_characters(open_profile: Open, tmp_path: Path) -> None:
    provider, file = open_profile("generic"), tmp_path / "cat.mp4"
    with pytest.raises(InvalidInput, match="nothing was sent"):
        await provider.create_character("Tom", file)
    file.write_bytes(b"video")
    made = await provider.create_character("Tom", file)
    assert made.name == "Tom"
    assert await provider.character(made.id) == made
    with pytest.raises(NotFound):
        await provider.character("char_unknown")


async def test_pictures(open_profile: Open, emulator: Emulator) -> None:
    provider = open_profile("generic")
    accepted = await submit(provider)
    emulator.settle()
    for variant in get_args(Variant):
        with Image.open(io.BytesIO(await provider.picture(accepted.id, variant))) as image:
            assert image.format == "WEBP"
    video = Server(httpx.Response(200, content=b"video", headers={"content-type": "video/mp4"})).provider()
    with pytest.raises(UnreadableAnswer, match="no picture"):
        await video.picture("video_1")


async def test_what_is_sent_is_sent_once() -> None:
    for answer, kind in ((httpx.Response(500), SubmitUnknown), (httpx.Response(200, text="<html>"), SubmitUnknown)):
        server = Server(answer)
        with pytest.raises(kind):
            await server.provider().extend("video_1", "it jumps", seconds=4)
        assert len(server.asked) == 1
    server = Server(job())
    await server.provider().extend("video_1", "it jumps", seconds=4)
    assert json.loads(server.asked[0].content) == {"prompt": "it jumps", "seconds": "4", "video": {"id": "video_1"}}


@pytest.mark.parametrize("profile", ENGINES)
async def test_engines_have_none_of_it(profile: str, tmp_path: Path) -> None:
    provider = Server(job()).provider(profile)
    for asking in (
        provider.remix("video_1", "a dog"),
        provider.edit("video_1", "a dog"),
        provider.extend("video_1", "a dog", seconds=4),
        provider.create_character("Tom", tmp_path / "cat.mp4"),
        provider.character("char_1"),
    ):
        with pytest.raises(Unsupported, match="cannot"):
            await asking
