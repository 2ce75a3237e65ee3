"""Download host: links, ranges, and requests that leak a key."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.emulator.download_host import ClipResponse
from prefect_video.emulator.generation import EmulatedGeneration, GenerationRequest
from prefect_video.emulator.signed_urls import LinkSigner
from tests.support.emulator_client import Client, download

REQUEST = GenerationRequest(
    model="sora-2", prompt="A quiet harbour", duration=1, aspect_ratio="16:9", resolution="480p"
)
COMPLETED = EmulatedGeneration(
    id="gen_1", dialect="sora", account="acct_1", request=REQUEST, created=0, starts_at=0, ends_at=1, finished=1
)


@pytest.fixture
def result(emulator: Emulator) -> dict[str, Any]:
    found: dict[str, Any] = Client.connect(emulator).generate(emulator)["result"]
    return found


def test_whole_file_and_head(emulator: Emulator, result: dict[str, Any]) -> None:
    response = download(result["video_url"])
    assert response.status_code == 200
    assert response.headers["content-type"] == "video/mp4"
    assert response.headers["accept-ranges"] == "bytes"
    assert len(response.content) == int(response.headers["content-length"]) == result["file_size"]
    head = httpx.head(result["video_url"])
    assert head.headers["content-length"] == response.headers["content-length"]
    assert head.headers["etag"] == response.headers["etag"]
    usage = emulator.usage()
    assert (usage["downloaded"], usage["download_bytes"]) == (1, result["file_size"])
    assert usage["by_prompt"]["A quiet harbour"]["downloaded"] == 1


def test_ranges(result: dict[str, Any]) -> None:
    url = result["video_url"]
    whole = download(url)
    size, etag = len(whole.content), whole.headers["etag"]
    for header, start, stop in [
        ("bytes=100-199", 100, 200),
        ("bytes=100-", 100, size),
        ("bytes=-50", size - 50, size),
        (f"bytes=10-{size * 2}", 10, size),
    ]:
        part = download(url, Range=header)
        assert part.status_code == 206
        assert part.content == whole.content[start:stop]
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    assert download(url, **{"Range": "bytes=5-", "If-Range": etag}).status_code == 206
    assert download(url, **{"Range": "bytes=5-", "If-Range": '"old"'}).content == whole.content
    outside = download(url, Range=f"bytes={size}-")
    assert (outside.status_code, outside.headers["content-range"]) == (416, f"bytes */{size}")
    assert download(url, Range="bytes=0-1,5-6").status_code == 200


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.text(alphabet="bytes=0123456789-, ", max_size=14).filter(str.isprintable), size=st.integers(0, 10_000))
async def test_any_range_header_gives_a_part_of_the_file(tmp_path: Path, header: str, size: int) -> None:
    path, content = tmp_path / f"{size}.mp4", bytes(number % 251 for number in range(size))
    path.write_bytes(content)
    app = ClipResponse(path, COMPLETED, etag='"tag"', media_type="video/mp4")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://host") as client:
        answer = await client.get("/clip.mp4", headers={"Range": header})
    if answer.status_code == 206:
        span = re.fullmatch(rf"bytes (\d+)-(\d+)/{size}", answer.headers["content-range"])
        assert span is not None
        start, stop = int(span[1]), int(span[2]) + 1
        assert 0 <= start < stop <= size
        assert answer.content == content[start:stop]
    elif answer.status_code == 200:
        assert answer.content == content
    else:
        assert answer.status_code in (400, 416)


def test_thumbnail_is_a_picture(result: dict[str, Any]) -> None:
    response = download(result["thumbnail_url"])
    assert response.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(response.content)) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (480, 270)


def test_tampered_links_are_refused(result: dict[str, Any]) -> None:
    url = httpx.URL(result["video_url"])
    later = url.copy_set_param("expires", str(time.time() + 99_999))
    for bad in (later, url.copy_set_param("sig", "0" * 64), url.copy_set_param("sig", "é"), url.copy_with(query=None)):
        assert download(str(bad)).status_code == 403
    other = str(url).replace("/videos/", "/thumbnails/").replace(".mp4", ".jpg")
    assert download(other).status_code == 403


def test_expired_link_is_refused_and_a_fresh_one_works(emulator: Emulator) -> None:
    client = Client.connect(emulator)
    generation = client.generate(emulator)
    signer = LinkSigner(emulator.settings)
    signer.base = emulator.cdn
    dead = signer.mint_expired(generation["id"], time.time())
    assert download(dead.video).status_code == 403
    assert download(dead.thumbnail).status_code == 403
    assert download(client.retrieve(generation["id"]).json()["result"]["video_url"]).status_code == 200


def test_link_dies_after_its_time() -> None:
    with Emulator(EmulatorSettings(port=0, speed=200, link_ttl_seconds=0.001)) as emulator:
        result = Client.connect(emulator).generate(emulator)["result"]
        assert download(result["video_url"]).status_code == 403


def test_each_retrieve_mints_another_link(emulator: Emulator) -> None:
    client = Client.connect(emulator)
    generation_id = client.generate(emulator)["id"]
    links = {client.retrieve(generation_id).json()["result"]["video_url"] for _ in range(5)}
    assert len(links) > 1


def test_key_sent_to_the_download_host_is_noted(emulator: Emulator, result: dict[str, Any]) -> None:
    url = result["video_url"]
    assert download(url, Authorization="Bearer anything").status_code == 400
    assert download(url, Cookie=f"key={emulator.key}").status_code == 400
    assert download(f"{url}&key={emulator.key}").status_code == 400
    assert download(result["thumbnail_url"], **{"X-Api-Key": emulator.key}).status_code == 400
    usage = emulator.usage()
    assert (usage["leaked_keys"], usage["downloaded"]) == (4, 0)


def test_nothing_is_served_before_completion() -> None:
    with Emulator(EmulatorSettings(port=0, times="fixed:600")) as emulator:
        generation_id = Client.connect(emulator).submit_accepted()
        signer = LinkSigner(emulator.settings)
        signer.base = emulator.cdn
        assert download(signer.mint(generation_id, time.time()).video).status_code == 404
        assert download(signer.mint("gen_unknown", time.time()).video).status_code == 404
        assert download(f"{emulator.cdn}/other").status_code == 404
