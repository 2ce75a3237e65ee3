"""Requests of the OpenAI Videos dialect: forms and JSON, read and validated by profile."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any, Final

from pydantic import AnyUrl, BaseModel, ConfigDict, Field, RootModel, field_validator
from starlette.datastructures import UploadFile
from starlette.requests import Request

from prefect_video.emulator.dialects.json_bodies import read_json, validate
from prefect_video.emulator.dialects.openai.profiles import EXTRAS, EngineProfile
from prefect_video.emulator.errors import ApiError
from prefect_video.emulator.generation import FPS, GenerationRequest
from prefect_video.emulator.rendering import ImageFolder

DEFAULT_MODEL: Final = "sora-2"
DEFAULT_SIZE: Final = "720x1280"
DEFAULT_SECONDS: Final = 4
LONGEST_SECONDS: Final = 60
MAX_PROMPT: Final = 32_000

_PRO_USD: Final = {
    **dict.fromkeys(("720x1280", "1280x720"), Decimal("0.30")),
    **dict.fromkeys(("1024x1792", "1792x1024"), Decimal("0.50")),
}
_PRO_LARGE_USD, _USD = Decimal("0.70"), Decimal("0.10")
_NESTED = re.compile(r"([^\[\]]+)\[([^\[\]]+)\]")


class CreateBody(BaseModel):
    """Body of a create request."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str = DEFAULT_MODEL
    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)
    seconds: str | float = Field(default=str(DEFAULT_SECONDS))
    size: str = Field(default=DEFAULT_SIZE, pattern=r"^\d{2,4}x\d{2,4}$")
    seed: int | None = None
    negative_prompt: str | None = None
    fps: int | None = Field(default=None, ge=1, le=120)
    num_frames: int | None = Field(default=None, ge=1, le=7200)
    num_inference_steps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0)
    output_path: str | None = None
    generate_sound: bool | None = None

    @field_validator("model")
    @classmethod
    def _is_named(cls, model: str) -> str:
        return model or DEFAULT_MODEL  # forms send an empty field for one that was not filled in

    @field_validator("seconds")
    @classmethod
    def _is_a_length(cls, seconds: str | float) -> str | float:
        if not re.fullmatch(r"[1-9]\d?(\.0)?", str(seconds)) or float(seconds) > LONGEST_SECONDS:
            raise ValueError(f"must be whole seconds from 1 to {LONGEST_SECONDS}")
        return seconds


class RemixBody(BaseModel):
    """Body of a remix."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)


class FileReference(BaseModel):
    """First frame by the id of an uploaded file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_id: str


class LinkReference(BaseModel):
    """First frame by URL."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_url: AnyUrl


class ReferenceBody(RootModel[FileReference | LinkReference]):
    """`input_reference` of a JSON body: exactly one of `image_url` and `file_id`, as OpenAI documents it."""


async def read_create(request: Request, profile: EngineProfile, images: ImageFolder) -> GenerationRequest:
    """Read the requested video from a create request.

    Args:
        request: HTTP request.
        profile: Profile of the server.
        images: Keeps the image of the request, with which the video begins.

    Raises:
        ApiError: The profile rejects it.
    """
    document = await read_body(request, form_only=profile.form_only)
    if profile.requires_file and is_form(request) and not isinstance(document.get("input_reference"), UploadFile):
        raise ApiError("invalid", "input_reference file is required")
    if profile.reads_extra_body:
        document |= decode_object(document.pop("extra_body", None))
    unknown = sorted(set(document) - profile.fields)
    if unknown and profile.other_fields == "refused":
        raise ApiError("invalid", f"Unknown parameter: '{unknown[0]}'.")
    if profile.requires_text_seconds and not isinstance(document.get("seconds", ""), str):
        raise ApiError("invalid", "Invalid type for 'seconds': expected a string")
    if profile.checks_reference and not is_form(request) and "input_reference" in document:
        validate(ReferenceBody, document["input_reference"])
    options = {name: document[name] for name in unknown if name != "extra_body"}
    image = await _keep_reference(document.get("input_reference"), images)
    return read_generation_request(validate(CreateBody, document), profile).model_copy(
        update={"images": {"first_frame": (image,)} if image else {}, "options": options}
    )


async def _keep_reference(reference: Any, images: ImageFolder) -> str | None:
    """Keep an image that comes as a file, as base64 or in a `data:` URL; None for an id or a URL elsewhere."""
    if isinstance(reference, UploadFile):
        return images.keep(await reference.read())
    if isinstance(reference, dict):
        reference = reference.get("image_url")
    return images.keep_encoded(reference, field="input_reference") if reference else None


def read_generation_request(body: CreateBody, profile: EngineProfile) -> GenerationRequest:
    """Return the requested video; a number of frames takes precedence over seconds.

    Raises:
        ApiError: The emulator cannot render the size.
    """
    fps = body.fps or FPS
    seconds = math.ceil(body.num_frames / fps) if body.num_frames else int(float(body.seconds))
    width, height = map(int, body.size.split("x"))
    if width % 2 or height % 2 or min(width, height) < 64:
        raise ApiError("invalid", f"Invalid size: '{body.size}'; both sides must be even and at least 64")
    extras = body.model_dump(include={*EXTRAS, "output_path"} & profile.fields, exclude_none=True)
    return GenerationRequest(
        model=body.model,
        prompt=body.prompt,
        duration=seconds,
        aspect_ratio="16:9",
        resolution="720p",
        size=(width, height),
        frames=body.num_frames,
        fps=fps,
        metadata=extras,
        audio=body.generate_sound if "generate_sound" in profile.fields else None,
        price_usd=_price(body, seconds) if profile.priced else Decimal(0),
    )


async def read_body(request: Request, *, form_only: bool = False) -> dict[str, Any]:
    """Return the fields of a form or of a JSON object; `extra_body[fps]` in a form is `fps` of an object `extra_body`.

    Raises:
        ApiError: The body is neither, or not of the required kind.
    """
    if is_form(request):
        form = await request.form(max_part_size=64 * 2**20)
        document: dict[str, Any] = {}
        for name, value in form.multi_items():
            nested = _NESTED.fullmatch(name)
            if nested:
                parent = document.setdefault(nested[1], {})
                if isinstance(parent, dict):
                    parent[nested[2]] = value
            else:
                document[name] = value
        return document
    if form_only:
        raise ApiError("invalid", "Field required: body must be multipart/form-data", status=422)
    decoded = await read_json(request)
    if not isinstance(decoded, dict):
        raise ApiError("invalid", "The body is not a JSON object")
    return decoded


def is_form(request: Request) -> bool:
    """Return True if the body is a form."""
    return request.headers.get("content-type", "").startswith("multipart/form-data")


def decode_object(value: Any) -> dict[str, Any]:
    """Return an object, decoded if a form carries it as JSON; an empty one for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _price(body: CreateBody, seconds: int) -> Decimal:
    per_second = _PRO_USD.get(body.size, _PRO_LARGE_USD) if body.model.startswith("sora-2-pro") else _USD
    return per_second * seconds
