"""LiteLLM's video functions, unmodified, against the emulator, and its ids as our profile meets them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from prefect_video.downloads.media import probe
from prefect_video.emulator import Emulator
from prefect_video.emulator.dialects.openai import wrap_id
from prefect_video.providers.openai.responses import unwrap_id


@pytest.fixture(scope="module")
def litellm() -> Any:
    """The SDK; importing it takes as long as all else together, so only who runs these tests does."""
    with pytest.MonkeyPatch.context() as patch:
        # Else importing it asks the network for prices.
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        return importlib.import_module("litellm")


def where(emulator: Emulator, profile: str | None = None) -> dict[str, Any]:
    path = f"/profiles/{profile}/v1" if profile else "/v1"
    return {"api_base": emulator.url + path, "api_key": emulator.key}


def test_generate_wait_and_download(litellm: Any, emulator: Emulator, tmp_path: Path) -> None:
    video = litellm.video_generation(
        prompt="a cat", model="openai/sora-2", seconds="4", size="720x1280", **where(emulator)
    )
    assert video.usage == {"duration_seconds": 4.0}
    emulator.wait_until_idle()
    done = litellm.video_status(video_id=video.id, **where(emulator))
    assert done.status == "completed"
    assert unwrap_id(done.id) == unwrap_id(video.id) != video.id
    content = litellm.video_content(video_id=video.id, **where(emulator))
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    assert probe(path).duration_seconds == pytest.approx(4, abs=0.1)
    second = litellm.video_generation(
        prompt="a dog", model="openai/sora-2", seconds="4", size="720x1280", **where(emulator)
    )
    listed = litellm.video_list(**where(emulator))
    assert {unwrap_id(item["id"]) for item in listed["data"]} == {unwrap_id(video.id), unwrap_id(second.id)}


def test_a_vllm_server_behind_it(litellm: Any, emulator: Emulator) -> None:
    video = litellm.video_generation(
        prompt="a cat", model="hosted_vllm/wan", size="848x480", num_frames=33, fps=16, **where(emulator, "vllm_omni")
    )
    emulator.wait_until_idle()
    here = where(emulator, "vllm_omni")
    done = litellm.video_status(video_id=video.id, custom_llm_provider="hosted_vllm", **here)
    assert (done.status, done.progress) == ("completed", 100)


def test_ids_are_wrapped_as_it_wraps_them(litellm: Any) -> None:
    from litellm.types.videos.utils import encode_video_id_with_provider

    wrapped = encode_video_id_with_provider("video_abc/+=", "openai", "sora-2?>~")
    assert wrapped == wrap_id("video_abc/+=", "sora-2?>~")
    assert unwrap_id(wrapped) == "video_abc/+="
    assert unwrap_id("video_68e3a06dcd88") == "video_68e3a06dcd88"
    assert unwrap_id("") == ""
