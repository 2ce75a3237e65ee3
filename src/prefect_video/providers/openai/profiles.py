"""Who speaks the OpenAI Videos dialect, and how each deviates from it.

By the sources and documents of vLLM-Omni 0.30, SGLang 0.5.23, TensorRT-LLM (main) and LiteLLM 1.106; none was tried on
a GPU. One row of `PROFILES` is all that an engine needs which keeps to what the fields below can say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, Literal

from prefect_video.errors import InvalidInput
from prefect_video.providers.base import Capabilities
from prefect_video.shots import AspectRatio, Shot

EXTRAS: Final = ("seed", "negative_prompt", "fps", "num_frames", "num_inference_steps", "guidance_scale")
"""Fields of a shot that engines take beyond the dialect."""

_RATIOS: Final[tuple[AspectRatio, ...]] = ("16:9", "9:16", "1:1")


@dataclass(frozen=True)
class Profile:
    """One server's way of speaking the dialect.

    Attributes:
        provider: The provider's name.
        title: What messages call it.
        capabilities: What it can make and do.
        body: How a video is asked for: always as a form, as a form only when a file goes along, or always as JSON (a
            file then goes as base64).
        seconds: How the duration is written: `"8"`, `8` or `8.0`.
        nested_extras: Whether extras go into `extra_body` instead of beside the prompt.
        size_step: Width and height are rounded to a multiple of this many pixels.
        pages: Whether the list takes `limit`, `order` and `after`; else it is one page in any order.
        delete_aborts: Whether DELETE ends work under way; else it only loses the video.
        links: Whether a finished job may name a link of its own, outside the API and free of the key.
        webhooks: Whether events are sent.
        needs_key: Whether it wants a key; engines at home mostly do not.
        default_url: Where it is when nothing else is said.
        output_folder: A folder on the server below which each video gets a folder named by our key, where a request may
            choose one and jobs tell it: that is how our key comes back.
        one_model: Whether it serves a single model, whatever its name: the name that a shot has by default is not sent.
    """

    provider: str
    title: str
    capabilities: Capabilities
    body: Literal["form", "form_with_file", "json"] = "form_with_file"
    seconds: Literal["text", "whole", "number"] = "text"
    nested_extras: bool = False
    size_step: int = 2
    pages: bool = True
    delete_aborts: bool = False
    links: bool = False
    webhooks: bool = False
    needs_key: bool = False
    default_url: str | None = None
    output_folder: str | None = None
    one_model: bool = False

    def size_of(self, shot: Shot) -> str:
        """Width and height as the dialect writes them, such as `1280x720`."""
        if shot.size is not None:
            return shot.size
        width, height = (round(side / self.size_step) * self.size_step for side in shot.frame_size)
        return f"{width}x{height}"


def _hosted() -> Capabilities:
    return Capabilities(
        sizes={"1080p": 20, "720p": 20, "480p": 20},
        aspect_ratios=_RATIOS,
        can_cancel=False,
        lookup="likeness",
        supports_webhook_url=False,
        optional_fields=("references", "size"),
    )


def _engine(*, can_cancel: bool, echoes_key: bool = False) -> Capabilities:
    """An engine on a GPU of one's own."""
    return Capabilities(
        sizes={"1080p": 20, "720p": 20, "480p": 20},
        aspect_ratios=_RATIOS,
        can_cancel=can_cancel,
        lookup="key" if echoes_key else "likeness",
        supports_webhook_url=False,
        optional_fields=(*EXTRAS, "references", "size"),
        seconds_per_video_second=(1.0, 30.0),
    )


PROFILES: Final[Mapping[str, Profile]] = {
    "generic": Profile(
        provider="openai",
        title="openai",
        capabilities=replace(_hosted(), retention=timedelta(hours=1)),
        webhooks=True,
        needs_key=True,
        default_url="https://api.openai.com/v1",
    ),
    "vllm_omni": Profile(
        provider="vllm_omni",
        title="vLLM-Omni",
        capabilities=_engine(can_cancel=True),
        body="form",
        size_step=16,
        one_model=True,
        delete_aborts=True,
    ),
    "sglang": Profile(
        provider="sglang",
        title="SGLang",
        capabilities=_engine(can_cancel=False, echoes_key=True),
        seconds="whole",
        nested_extras=True,
        size_step=16,
        one_model=True,
        output_folder="prefect-video",
        links=True,
    ),
    "trtllm": Profile(
        provider="trtllm",
        title="TensorRT-LLM",
        capabilities=_engine(can_cancel=True),
        body="json",
        seconds="number",
        size_step=16,
        one_model=True,
        pages=False,
        delete_aborts=True,
    ),
    "litellm": Profile(
        provider="litellm",
        title="LiteLLM",
        capabilities=_hosted(),
        needs_key=True,
    ),
}
"""Every profile by its name, which is also the name of the provider (`generic` is `openai`)."""


def find_profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        InvalidInput: There is none.
    """
    if name not in PROFILES:
        raise InvalidInput(f"profile {name!r} is not known; choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
