"""Profiles of servers that speak the OpenAI Videos dialect: the deviations of each, as data.

By the sources and documents of vLLM-Omni 0.30, SGLang 0.5.23 and TensorRT-LLM (main), none of which was tried on a GPU,
and by a LiteLLM proxy 1.108 that was run. An engine whose deviations the fields below can describe needs one row of
`PROFILES` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, Literal

from prefect_video.errors import InvalidInput
from prefect_video.frame_sizes import ALL_RESOLUTIONS, COMMON_RATIOS
from prefect_video.providers.base import Capabilities
from prefect_video.shots import DURATION_LIMIT, Shot

EXTRAS: Final = ("seed", "negative_prompt", "fps", "num_frames", "num_inference_steps", "guidance_scale")
"""Fields of a shot that engines support beyond the dialect."""
_COMMON: Final = ("first_frame", "references", "options")
"""Optional fields of a shot that every server of the dialect is sent: an unknown option it refuses or ignores."""

_ANY: Final = Capabilities(
    # Every request names its size in pixels: which sizes and lengths there are, the server's model decides.
    sizes=dict.fromkeys(reversed(ALL_RESOLUTIONS), DURATION_LIMIT),
    aspect_ratios=COMMON_RATIOS,
    supports_webhook_url=False,
    # One field for one image: the first frame, or what the model makes of it.
    mixes_images=False,
)


@dataclass(frozen=True)
class Profile:
    """One server's deviations from the dialect.

    Attributes:
        provider: Name of the provider.
        title: Its name in messages.
        capabilities: Its capabilities.
        body: Form of a submit: always a form, a form only with a file, or always JSON (with a file as base64).
        seconds: Form of the duration: `"8"`, `8` or `8.0`.
        nested_extras: Whether extras go into `extra_body` instead of beside the prompt.
        size_step: Number of pixels of which width and height must be a multiple.
        lists: Whether the list of generations can be read at all.
        wraps_ids: Whether ids wrap those of the server behind it, whose console shows what is inside.
        pages: Whether the list takes `limit`, `order` and `after`; else it is one page in any order.
        delete_aborts: Whether DELETE ends work in progress; else it only deletes the video.
        links: Whether a completed job may have a link of its own, outside the API, which needs no key.
        webhooks: Whether events are sent.
        needs_key: Whether a key is required; self-hosted engines mostly need none.
        default_url: Address where none is configured.
        output_folder: Folder on the server below which each video gets a folder named by our idempotency key, where a
            request may choose one and jobs report it: that is how the key is echoed.
        one_model: Whether it serves a single model, whatever its name: a shot's default model is not sent.
        sound_field: Name of the field that asks for sound, where there is one.
    """

    provider: str
    title: str
    capabilities: Capabilities
    body: Literal["form", "form_with_file", "json"] = "form_with_file"
    seconds: Literal["text", "whole", "number"] = "text"
    nested_extras: bool = False
    size_step: int = 2
    lists: bool = True
    wraps_ids: bool = False
    pages: bool = True
    delete_aborts: bool = False
    links: bool = False
    webhooks: bool = False
    needs_key: bool = False
    default_url: str | None = None
    output_folder: str | None = None
    one_model: bool = False
    sound_field: str | None = None

    def format_size(self, shot: Shot) -> str:
        """Return width and height as the dialect writes them, such as `1280x720`."""
        if shot.size is not None:
            return shot.size
        width, height = (round(side / self.size_step) * self.size_step for side in shot.frame_size)
        return f"{width}x{height}"


def _hosted() -> Capabilities:
    """Return the capabilities of a hosted service."""
    return replace(_ANY, can_cancel=False, lookup="similarity", optional_fields=(*_COMMON, "size"))


def _engine(*, can_cancel: bool, echoes_key: bool = False) -> Capabilities:
    """Return the capabilities of a self-hosted engine."""
    return replace(
        _ANY,
        can_cancel=can_cancel,
        lookup="key" if echoes_key else "similarity",
        optional_fields=(*EXTRAS, *_COMMON, "size"),
        seconds_per_video_second=(1.0, 30.0),
    )


_VLLM: Final = _engine(can_cancel=True)

PROFILES: Final[Mapping[str, Profile]] = {
    "generic": Profile(
        provider="openai",
        title="openai",
        capabilities=replace(_hosted(), retention=timedelta(hours=1), can_remix=True),
        webhooks=True,
        needs_key=True,
        default_url="https://api.openai.com/v1",
    ),
    "vllm_omni": Profile(
        provider="vllm_omni",
        title="vLLM-Omni",
        capabilities=replace(_VLLM, optional_fields=(*_VLLM.optional_fields, "audio")),
        sound_field="generate_sound",
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
        # Its list is always refused with 400, and its jobs carry no prompt: whether it has accepted a submit cannot be
        # found out.
        capabilities=replace(_hosted(), can_list=False, lookup="none"),
        lists=False,
        wraps_ids=True,
        needs_key=True,
    ),
}
"""Every profile by its name, which is also the name of the provider (`generic` is `openai`)."""


def find_profile(name: str) -> Profile:
    """Return the profile with a name.

    Raises:
        InvalidInput: There is no such profile.
    """
    if name not in PROFILES:
        raise InvalidInput(f"profile {name!r} is not known; choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
