"""Frames, sound and options as each dialect takes them, by what the emulator has accepted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_video.downloads import check_media, probe
from prefect_video.emulator import Emulator
from prefect_video.errors import InvalidInput, RequestRejected, Unsupported
from tests.support.accounts import account_named
from tests.support.pictures import draw

DAWN, DUSK = draw(30, (64, 36)), draw(200, (64, 36))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Write two pictures and return their paths by name."""
    for name, content in (("dawn", DAWN), ("dusk", DUSK)):
        (tmp_path / f"{name}.png").write_bytes(content)
    return {name: str(tmp_path / f"{name}.png") for name in ("dawn", "dusk")}


async def send(emulator: Emulator, name: str, **fields: Any) -> dict[str, Any]:
    """Check and submit a shot at an account, and return what the emulator has accepted."""
    account = account_named(name)
    provider = account.open(emulator)
    try:
        await provider.load_capabilities()
        shot = account.a_shot(**fields)
        provider.check(shot)
        await provider.submit(shot, idempotency_key="key-1", project="film")
    finally:
        await provider.aclose()
    accepted: dict[str, Any] = emulator.requests()[-1]
    return accepted


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("sora", {"last_frame", "audio", "watermark", "options"}),
        ("openai", set()),
        ("vllm_omni", {"audio", "options"}),
        ("sglang", {"options"}),
        ("openrouter", {"last_frame", "audio", "options"}),
        ("fal", {"last_frame", "audio", "watermark", "options"}),
        ("replicate", {"last_frame", "audio", "watermark", "options"}),
    ],
)
async def test_what_a_shot_asks_for_arrives(
    emulator: Emulator, files: dict[str, str], name: str, fields: set[str]
) -> None:
    values = {"last_frame": files["dusk"], "audio": True, "watermark": False, "options": {"camera": {"pan": [1, 2]}}}
    given = {field: value for field, value in values.items() if field in fields}
    accepted = await send(emulator, name, first_frame=files["dawn"], **given)
    images = {"first_frame": DAWN, **({"last_frame": DUSK} if "last_frame" in fields else {})}
    assert accepted["images"] == {field: [hashlib.sha256(image).hexdigest()] for field, image in images.items()}
    assert (accepted["audio"], accepted["watermark"]) == (given.get("audio"), given.get("watermark"))
    options = given.get("options", {})
    # A form has text only.
    sent = {option: json.dumps(value) for option, value in options.items()} if name == "vllm_omni" else options
    assert accepted["options"] == sent


async def test_openrouter_is_sent_references_and_4k_by_its_own_name(emulator: Emulator, files: dict[str, str]) -> None:
    fields = {"references": [files["dawn"], files["dusk"]], "resolution": "4k", "aspect_ratio": "21:9", "duration": 40}
    accepted = await send(emulator, "openrouter", **fields)
    assert len(accepted["images"]["references"]) == 2
    assert [accepted[name] for name in ("resolution", "aspect_ratio", "duration")] == ["2160p", "21:9", 40]


async def test_an_adaptive_video_has_the_shape_of_its_first_frame(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "tall.png").write_bytes(draw(30, (90, 120)))
    account = account_named("fal")
    provider = account.open(emulator)
    shot = account.a_shot(first_frame=str(tmp_path / "tall.png"), aspect_ratio="adaptive", resolution="360p")
    provider.check(shot)
    generation = await provider.submit(shot, idempotency_key="key-1", project="film")
    emulator.wait_until_idle()
    source = provider.download_source(await provider.retrieve(generation.id))
    (tmp_path / "video.mp4").write_bytes(httpx.get(source.url).content)
    media = probe(tmp_path / "video.mp4")
    assert (media.width, media.height) == (360, 480)
    check_media(media, shot)
    await provider.aclose()


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("openai", {"last_frame": "dusk"}, "last_frame: openai takes none"),
        ("openai", {"audio": False}, "audio: openai takes none"),
        ("openai", {"first_frame": "dawn", "references": ["dusk"]}, "references: openai takes none beside"),
        ("openrouter", {"first_frame": "dawn", "references": ["dusk"]}, "references: .* takes none beside"),
        ("openrouter", {"watermark": False}, "watermark: .* takes none"),
        ("openrouter", {"resolution": "360p"}, "resolution: .* has no 360p; .*; the nearest is 480p"),
        ("openrouter", {"aspect_ratio": "3:2"}, "aspect_ratio: .* has no 3:2; .*; the nearest is 4:3"),
        ("fal", {"first_frame": "dawn", "references": ["dusk"]}, "references: .* takes none beside"),
        ("replicate", {"model": "google/veo-3.1", "duration": 4, "resolution": "720p", "watermark": True}, "watermark"),
    ],
)
async def test_what_a_dialect_cannot_express_is_refused(
    emulator: Emulator, files: dict[str, str], name: str, fields: dict[str, Any], reason: str
) -> None:
    paths = {field: files.get(value, value) if isinstance(value, str) else value for field, value in fields.items()}
    with pytest.raises(Unsupported, match=f"shot 'roof': {reason}"):
        await send(emulator, name, **paths)
    assert emulator.usage()["submitted"] == 0


async def test_the_plans_of_the_sora_contract_take_no_further_fields(files: dict[str, str]) -> None:
    from prefect_video.providers.sora.provider import SoraProvider

    provider = SoraProvider(api_key="key", endpoint="http://127.0.0.1:9", plan="pro")
    values = {"first_frame": files["dawn"], "audio": True, "watermark": True, "options": {"camera": "fixed"}}
    for field, value in values.items():
        with pytest.raises(Unsupported, match=f"{field}: sora plan 'pro' takes none"):
            provider.check(account_named("sora").a_shot(resolution="720p", **{field: value}))
    await provider.aclose()


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("sora", "prompt"),
        ("openai", "seconds"),
        ("vllm_omni", "size"),
        ("sglang", "output_path"),
        ("openrouter", "duration"),
        ("fal", "prompt"),
        ("replicate", "aspect_ratio"),
    ],
)
async def test_options_do_not_override_what_the_shot_says(emulator: Emulator, name: str, option: str) -> None:
    if name == "sora":
        # They go into an object of their own.
        assert (await send(emulator, name, options={option: "x"}))["prompt"] == "a cat on a roof"
        return
    with pytest.raises(InvalidInput, match=f"options: .*{option!r}"):
        await send(emulator, name, options={option: "x"})
    assert emulator.usage()["submitted"] == 0


async def test_an_option_that_the_server_does_not_know_costs_nothing(emulator: Emulator) -> None:
    with pytest.raises(RequestRejected, match="camera"):
        await send(emulator, "openai", options={"camera": "fixed"})
    assert emulator.usage()["accepted"] == 0


async def test_replicate_matches_by_the_whole_input_with_images_and_options(
    emulator: Emulator, files: dict[str, str]
) -> None:
    from prefect_video.providers.matching import Match
    from prefect_video.providers.replicate.provider import ReplicateProvider

    account = account_named("replicate")
    provider = account.open(emulator)
    assert isinstance(provider, ReplicateProvider)
    fields: dict[str, Any] = {"first_frame": files["dawn"], "options": {"loop": True, "cuts": [1.0, {"at": 2.5}]}}
    shot = account.a_shot(**fields)
    sent = await provider.submit(shot, idempotency_key="key-1", project="film")
    found = await provider.retrieve(sent.id)
    assert provider.compare(found, shot) is Match.SAME
    for other in (
        {**fields, "first_frame": files["dusk"]},
        {**fields, "options": {"loop": True, "cuts": [1, {"at": 3}]}},
        {**fields, "audio": True},
    ):
        assert provider.compare(found, account.a_shot(**other)) is Match.POSSIBLE
    # Replicate may keep the image elsewhere and echo the address: no evidence of another one.
    respelled = found.model_copy(update={"parameters": {**found.parameters, "image": "https://replicate.delivery/a"}})
    assert provider.compare(respelled, shot) is Match.POSSIBLE
    await provider.aclose()
