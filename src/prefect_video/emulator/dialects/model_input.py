"""Free-form input of hosted models, which have different names and notations for the same parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from pydantic import ValidationError

from prefect_video.emulator.errors import ApiError
from prefect_video.emulator.generation import GenerationRequest
from prefect_video.emulator.rendering import ImageFolder

MODEL_FPS: Final = 16
"""Frames per second of a model that takes frames without a rate."""

LONGEST_SECONDS: Final = 60

_SIZES: Final = {"standard": "720p", "high": "1080p"}
_SHAPES: Final = {"auto": "adaptive", "landscape": "16:9", "portrait": "9:16", "square": "1:1"}


_IMAGES: Final = {
    "first_frame": ("image_url", "image", "first_frame_url", "input_reference"),
    "last_frame": ("end_image_url", "last_frame", "last_frame_url"),
    "references": ("reference_images", "image_urls"),
}
"""The usual names of fields with images, by the field of a shot."""
_USUAL: Final = frozenset(
    {"prompt", "resolution", "aspect_ratio", "seed", "duration", "seconds", "num_frames", "fps", "frames_per_second"}
    | {"negative_prompt", "num_inference_steps", "guidance_scale", "generate_audio", "watermark"}
).union(*_IMAGES.values())
"""The usual names of all fields; any other one is an option of its model."""


def read_generation_request(
    document: Any, images: ImageFolder, *, model: str, webhook_url: str | None
) -> GenerationRequest:
    """Read the requested video from the input of a model, in any of the usual names and notations.

    Args:
        document: The input.
        images: Keeps the images of the input.
        model: Name of the model.
        webhook_url: Receiver of the webhook, if any.

    Raises:
        ApiError: The prompt is missing, or the emulator cannot render a value.
    """
    if not isinstance(document, dict) or not isinstance(document.get("prompt"), str) or not document["prompt"].strip():
        raise ApiError("invalid", "prompt: field required", status=422)
    size = str(document.get("resolution") or "720p")
    shape = str(document.get("aspect_ratio") or "16:9")
    seed = document.get("seed")
    try:
        return GenerationRequest.model_validate(
            {
                "model": model,
                "prompt": document["prompt"],
                **_read_length(document),
                "resolution": _SIZES.get(size, size),
                "aspect_ratio": _SHAPES.get(shape, shape),
                "metadata": {"input": document} | ({} if seed is None else {"seed": seed}),
                "webhook_url": webhook_url,
                "images": images.keep_all({field: _find_all(document, names) for field, names in _IMAGES.items()}),
                "audio": document.get("generate_audio"),
                "watermark": document.get("watermark"),
                "options": {name: value for name, value in document.items() if name not in _USUAL},
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ApiError("invalid", f"{'.'.join(map(str, first['loc']))}: {first['msg']}", status=422) from error


def _find_all(document: dict[str, Any], names: Iterable[str]) -> list[Any]:
    """Return the values of the first of these fields that the input has; a list is taken apart."""
    value = next((document[name] for name in names if document.get(name)), None)
    return value if isinstance(value, list) else [value]


def _read_length(document: dict[str, Any]) -> dict[str, int]:
    """Read the length from `duration` or `seconds` (5, "5" or "5s"), or from a number of frames and a rate."""
    frames = document.get("num_frames")
    duration = document.get("duration", document.get("seconds"))
    if duration is None and isinstance(frames, int) and frames > 0:
        fps = document.get("frames_per_second") or document.get("fps") or MODEL_FPS
        length = {"duration": max(1, round(frames / int(fps))), "frames": frames, "fps": int(fps)}
    else:
        number = re.fullmatch(r"(\d{1,3})s?", str(duration if duration is not None else 5))
        length = {"duration": int(number[1]) if number else 0}
    if not 1 <= length["duration"] <= LONGEST_SECONDS:
        raise ApiError("invalid", f"duration: {duration or frames!r} is not 1 to {LONGEST_SECONDS} seconds", status=422)
    return length
