"""Requests of each profile for a shot, and the videos that the emulated engines make of them."""

from __future__ import annotations

import base64
import json
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_video.downloads.media import check_media, probe
from prefect_video.downloads.transfer import download, open_download_client
from prefect_video.downloads.url_safety import LinkPolicy
from prefect_video.emulator import Emulator
from prefect_video.errors import InvalidVideo, RequestRejected, Unsupported
from prefect_video.providers.openai.profiles import EXTRAS, PROFILES
from prefect_video.providers.openai.responses import unwrap_id
from prefect_video.shots import Shot
from tests.support.providers.openai import ENGINES, EXTRA, SHOT, Open, Server, find, job, open_profile, submit

__all__ = ["open_profile"]


async def capture_request(profile: str, shot: Shot = SHOT) -> httpx.Request:
    server = Server(job())
    await submit(server.provider(profile), shot)
    return server.requests[0]


def parse_form(request: httpx.Request) -> dict[str, Message]:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    parts = BytesParser().parsebytes(head + request.content).get_payload()
    return {str(part.get_param("name", header="content-disposition")): part for part in parts}  # type: ignore[union-attr,misc]


def read_part(part: Message) -> str:
    return bytes(part.get_payload(decode=True)).decode()  # type: ignore[arg-type]


@pytest.mark.parametrize(("profile", "seconds"), [("generic", "2"), ("litellm", "2"), ("sglang", 2), ("trtllm", 2.0)])
async def test_seconds_are_written_as_the_server_wants_them(profile: str, seconds: object) -> None:
    request = await capture_request(profile)
    assert request.headers["content-type"] == "application/json"
    seconds_sent = json.loads(request.content)["seconds"]
    assert (seconds_sent, type(seconds_sent)) == (seconds, type(seconds))


async def test_vllm_omni_is_sent_a_form_and_nothing_else() -> None:
    form = parse_form(await capture_request("vllm_omni", SHOT.model_copy(update=EXTRA)))
    assert {name: read_part(part) for name, part in form.items()} == {
        "model": "wan",
        "prompt": "a cat",
        "size": "848x480",
        **{name: str(value) for name, value in EXTRA.items()},
    }
    assert read_part(parse_form(await capture_request("vllm_omni"))["seconds"]) == "2"


@pytest.mark.parametrize("profile", PROFILES)
async def test_a_model_that_is_not_named_is_not_requested_of_an_engine(profile: str) -> None:
    for given, sent_as in (("sora-2", None if profile in ENGINES else "sora-2"), ("wan", "wan"), ("ours", "theirs")):
        server = Server(job())
        provider = server.provider(profile, models={"ours": "theirs"})
        await submit(provider, SHOT.model_copy(update={"model": given}))
        request = server.requests[0]
        if profile == "vllm_omni":
            form = parse_form(request)
            model = read_part(form["model"]) if "model" in form else None
        else:
            model = json.loads(request.content).get("model")
        assert model == sent_as


async def test_extras_lie_where_each_engine_looks_for_them() -> None:
    shot = SHOT.model_copy(update=EXTRA)
    nested = json.loads((await capture_request("sglang", shot)).content)
    assert nested == {
        "model": "wan",
        "prompt": "a cat",
        "size": "848x480",
        "extra_body": EXTRA,
        "output_path": "prefect-video/k",
    }
    flat = json.loads((await capture_request("trtllm", shot)).content)
    assert flat == {"model": "wan", "prompt": "a cat", "size": "848x480", **EXTRA}
    assert "extra_body" not in json.loads((await capture_request("sglang")).content)


@pytest.mark.parametrize("profile", PROFILES)
async def test_a_reference_goes_along_as_a_file_or_as_base64(profile: str, tmp_path: Path) -> None:
    image = tmp_path / "roof.png"
    image.write_bytes(b"\x89PNG\r\n")
    request = await capture_request(profile, SHOT.model_copy(update={"references": (str(image),)}))
    if profile == "trtllm":
        assert base64.b64decode(json.loads(request.content)["input_reference"]) == b"\x89PNG\r\n"
        return
    part = parse_form(request)["input_reference"]
    assert (part.get_filename(), part.get_content_type()) == ("roof.png", "image/png")
    assert part.get_payload(decode=True) == b"\x89PNG\r\n"


async def test_a_reference_that_cannot_be_read_is_a_refusal_and_nothing_is_sent(tmp_path: Path) -> None:
    server = Server(job())
    with pytest.raises(RequestRejected, match="nothing was sent"):
        await submit(server.provider(), SHOT.model_copy(update={"references": (str(tmp_path / "gone.png"),)}))
    assert server.requests == []
    with pytest.raises(Unsupported, match="takes 1, not 2"):
        server.provider().check(SHOT.model_copy(update={"references": ("a.png", "b.png")}))


@pytest.mark.parametrize(
    ("profile", "ratio", "resolution", "size"),
    [
        ("generic", "16:9", "720p", "1280x720"),
        ("generic", "9:16", "1080p", "1080x1920"),
        ("generic", "1:1", "480p", "480x480"),
        ("vllm_omni", "16:9", "1080p", "1920x1088"),
        ("sglang", "9:16", "480p", "480x848"),
    ],
)
def test_sizes_by_profile(profile: str, ratio: Any, resolution: Any, size: str) -> None:
    shot = SHOT.model_copy(update={"aspect_ratio": ratio, "resolution": resolution})
    assert PROFILES[profile].format_size(shot) == size


@pytest.mark.parametrize("profile", PROFILES)
async def test_an_exact_size_is_made_priced_and_held_against_the_video(
    open_profile: Open, emulator: Emulator, tmp_path: Path, profile: str
) -> None:
    provider, shot = open_profile(profile), SHOT.model_copy(update={"size": "1024x320", "model": "sora-2-pro"})
    accepted = await submit(provider, shot)
    emulator.wait_until_idle()
    done = await provider.retrieve(accepted.id)
    assert done.result is not None
    assert (done.result.width, done.result.height) == (1024, 320)
    async with open_download_client(trust_env=False) as client:
        policy = LinkPolicy(trusted_host="127.0.0.1")
        file = await download(provider.download_source(done), tmp_path / "video.mp4", client=client, policy=policy)
    check_media(probe(file.path), shot)
    with pytest.raises(InvalidVideo, match="requested 854x480 pixels, the video has 1024x320"):
        check_media(probe(file.path), SHOT)
    if profile not in ("sglang", "litellm"):  # which do not list
        found = await find(provider, shot, known=())
        assert found is not None
        assert unwrap_id(found.id) == unwrap_id(accepted.id)


@pytest.mark.parametrize("field", EXTRAS)
@pytest.mark.parametrize("profile", ["generic", "litellm"])
def test_openai_itself_takes_no_extras(profile: str, field: str) -> None:
    shot = SHOT.model_copy(update={field: EXTRA[field]})
    with pytest.raises(Unsupported, match=f"{field}: .* takes none"):
        Server(job()).provider(profile).check(shot)


@pytest.mark.parametrize("profile", ENGINES)
async def test_engines_make_the_number_of_frames_that_is_asked_for(
    open_profile: Open, emulator: Emulator, tmp_path: Path, profile: str
) -> None:
    provider, shot = open_profile(profile), SHOT.model_copy(update={"num_frames": 33, "fps": 16, "seed": 7})
    accepted = await submit(provider, shot)
    emulator.wait_until_idle()
    done = await provider.retrieve(accepted.id)
    async with open_download_client(trust_env=False) as client:
        policy = LinkPolicy(trusted_host="127.0.0.1")
        file = await download(provider.download_source(done), tmp_path / "video.mp4", client=client, policy=policy)
    media = probe(file.path)
    assert media.frames == 33
    assert media.duration_seconds == pytest.approx(33 / 16, abs=0.01)
    check_media(media, shot)
    found = await find(provider, shot, known=()) if profile != "sglang" else None
    assert found is None or found.id == accepted.id
