"""Free-form input of hosted models, which have different names and notations for the same parameters."""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import ValidationError

from prefect_video.emulator.errors import ApiError
from prefect_video.emulator.generation import GenerationRequest

MODEL_FPS: Final = 16
"""Frames per second of a model that takes frames without a rate."""

LONGEST_SECONDS: Final = 20

_SIZES: Final = {"standard": "720p", "high": "1080p"}
_SHAPES: Final = {"landscape": "16:9", "portrait": "9:16", "square": "1:1"}


def read_generation_request(document: Any, *, model: str, webhook_url: str | None) -> GenerationRequest:
    """Read the requested video from the input of a model, in any of the usual names and notations.

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
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ApiError("invalid", f"{'.'.join(map(str, first['loc']))}: {first['msg']}", status=422) from error


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
