"""Shots: the requests of a user.

The limits here are wide (durations to 60 s, any aspect ratio, 360p to 4k): those of a provider, a plan and a model are
checked by the provider before anything is spent.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from prefect_video.frame_sizes import ADAPTIVE, AspectRatio, Resolution, Size, frame_size
from prefect_video.inputs import Input, Number

DEFAULT_MODEL: Final = "sora-2"
"""Model of a shot that names none; providers map it to a model of their own."""
PROMPT_LIMIT: Final = 32_000
TAKES_LIMIT: Final = 10
ChoicePolicy = Literal["best", "first", "human"]
"""Choice among several takes of a shot: the best by quality, the first that is stored, or the one of a human."""
NoAnswerPolicy = Literal["first", "drop", "fail"]
"""Consequence of an approval that is not given in time."""
OPTIONS_LIMIT_BYTES: Final = 65_536
DURATION_LIMIT: Final = 60
"""Longest duration in seconds."""
DEFAULT_FPS: Final = 24
"""Frames per second of engines where a shot requests none."""

Identifier = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*$", strict=True
    ),
]
"""Name that is safe in file names and URLs: letters, digits, `_`, `-` and single dots, not starting with a sign."""

Prompt = Annotated[str, StringConstraints(min_length=1, max_length=PROMPT_LIMIT, strict=True)]


def _to_whole(value: Any) -> Any:
    # A form or a spreadsheet sends 8.0 for 8.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_options(options: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(options, allow_nan=False, ensure_ascii=False).encode())
    except (ValueError, RecursionError) as error:
        raise ValueError("options are JSON: finite numbers, whole text, and no list within itself") from error
    if size > OPTIONS_LIMIT_BYTES:
        raise ValueError(f"options take at most {OPTIONS_LIMIT_BYTES:,} bytes of JSON; these have {size:,}")
    return options


Duration = Annotated[int, Field(ge=1, le=DURATION_LIMIT, strict=True), BeforeValidator(_to_whole)]
SEED_LIMIT: Final = 2**63 - 1
Seed = Annotated[int, Field(ge=0, le=SEED_LIMIT, strict=True)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
ProviderName = Annotated[str, StringConstraints(min_length=1, max_length=200)]

ImageAddress = Annotated[str, StringConstraints(min_length=1, max_length=4096, strict=True)]
"""Path of an image file, or its https URL."""
Options = Annotated[dict[str, JsonValue], AfterValidator(_check_options)]
"""Any JSON that a provider's model takes as further input."""

ClipAddress = Annotated[str, StringConstraints(min_length=1, max_length=4096, strict=True)]
"""Path of a video file, or its https URL."""


def is_web_address(source: str) -> bool:
    """Return True for an address, False for a path."""
    return urlsplit(source).scheme in ("http", "https")


def _show_as_unset(schema: dict[str, Any]) -> None:
    """Change the schema of a shot so that fields with a project-wide default are optional and unset.

    A form fills in the default of a schema and sends it, so that it would win over the project's defaults.
    """
    schema["properties"]["prompt"].pop("default", None)
    # A run sets it; a file names the shot.
    del schema["properties"]["remixed_from"]
    # Not `anyOf`, of which forms make a choice between two kinds of shots.
    schema |= {"if": {"not": {"required": ["clip"]}}, "then": {"required": ["prompt"]}}
    for name in ShotDefaults.model_fields:
        shown = schema["properties"][name]
        fallback = shown.pop("default", None)
        outside = {key: shown.pop(key) for key in ("title", "description") if key in shown}
        outside["description"] += "; unset: as the project's defaults say" + (f", else {fallback}" if fallback else "")
        choices = shown.pop("anyOf", [dict(shown), {"type": "null"}])
        shown.clear()
        shown.update(outside, anyOf=choices, default=None)


def _describe_as_shot(schema: dict[str, Any]) -> None:
    """Copy the descriptions of a shot's fields to those of a project's defaults."""
    for name, shown in schema["properties"].items():
        shown["description"] = Shot.model_fields[name].description


class Shot(Input):
    """One requested video; unset fields come from the project's defaults, else from the defaults here."""

    model_config = ConfigDict(json_schema_extra=_show_as_unset)

    id: Identifier = Field(description="Name within the project; becomes part of the file name")
    # Before the prompt, whose validator reads it.
    clip: ClipAddress | None = Field(
        default=None,
        description=(
            "A video that was made by hand, as a path from the project file or an https URL: it is checked, stored and"
            " used as it is, at no cost; the shot needs no prompt and is never sent to a provider"
        ),
    )
    prompt: Prompt = Field(
        default=None,
        validate_default=True,
        description="What is to be seen; at most 32,000 characters. Needed unless there is a clip",
    )
    model: ModelName = Field(default=DEFAULT_MODEL, description="The provider's name of the model")
    duration: Duration = Field(default=10, description="Length in whole seconds, 1 to 60, as far as the model makes it")
    aspect_ratio: AspectRatio = Field(
        default="16:9",
        description="Width to height, such as 16:9, 4:3 or 21:9, or `adaptive`, as the first frame has it",
    )
    resolution: Resolution = Field(default="1080p", description="Length of the shorter side; 4k is 2160p")
    size: Size | None = Field(
        default=None,
        description=(
            "Exact width and height in pixels, such as 1792x1024, where the provider takes it; wins over aspect ratio"
            " and resolution"
        ),
    )
    seed: Seed | None = Field(default=None, description="Fixes the randomness where the provider can")
    negative_prompt: Prompt | None = Field(default=None, description="What is not to be seen, for engines that take it")
    fps: int | None = Field(
        default=None, ge=1, le=120, strict=True, description="Frames per second, for engines that take it"
    )
    num_frames: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        strict=True,
        description="Exact number of frames, for engines that take it; wins over the duration there",
    )
    num_inference_steps: int | None = Field(
        default=None, ge=1, le=1_000, strict=True, description="Denoising steps, for engines that take it"
    )
    guidance_scale: Number | None = Field(
        default=None,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="How closely the prompt is followed, for engines that take it",
    )
    first_frame: ImageAddress | None = Field(
        default=None,
        description="Image with which the video begins, as a path or an https URL; fingerprinted by content",
    )
    last_frame: ImageAddress | None = Field(
        default=None,
        description="Image with which the video ends, as a path or an https URL; fingerprinted by content",
    )
    references: tuple[str, ...] = Field(
        default=(),
        description=(
            "Images of what is to be seen (people, things, a style), as paths or https URLs, where the provider takes"
            " them; fingerprinted by content"
        ),
    )
    audio: bool | None = Field(
        default=None,
        strict=True,
        description="Sound of its own (true) or a silent video (false), where it can be chosen",
    )
    watermark: bool | None = Field(
        default=None, strict=True, description="The provider's visible mark in the picture, where it can be chosen"
    )
    options: Options = Field(
        default_factory=dict,
        description=(
            "Further input of the provider's model, any JSON, sent as it is. By the provider's name"
            " (`options: {fal: {...}, replicate: {...}}`) where the project's provider is `auto` or a fallback names"
            " another provider"
        ),
    )
    depends_on: tuple[Identifier, ...] = Field(
        default=(), description="Ids of shots of the same project that must be stored first"
    )
    continue_from: Identifier | None = Field(
        default=None,
        description="Id of a shot of the same project whose last frame is the first frame of this one",
    )
    remix_of: Identifier | None = Field(
        default=None,
        description=(
            "Id of a shot of the same project whose generation is made anew by this prompt, at the provider that made"
            " it, with the same model, length and size"
        ),
    )
    remixed_from: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = Field(
        default=None, description="The provider's id of the generation that is remixed; set by a run, never in a file"
    )
    takes: int = Field(
        default=1,
        ge=1,
        le=TAKES_LIMIT,
        strict=True,
        description="How many independent generations are wanted, 1 to 10; each is paid",
    )
    seeds: tuple[Seed, ...] = Field(
        default=(),
        max_length=TAKES_LIMIT,
        description="A seed for each take, which are as many; unset: the first has `seed`, each further one the next",
    )
    choose: ChoicePolicy | None = Field(
        default=None,
        description=(
            "Which of several takes counts: the best by the project's `quality`, the first that is stored, or the one"
            " that a human chooses with `prefect-video approve`; unset: all do, and take 1 is continued"
        ),
    )
    approve: bool | None = Field(
        default=None,
        strict=True,
        description=(
            "A human approves the shot before it is continued, depended on or cut, in Prefect or with"
            " `prefect-video approve`"
        ),
    )
    metadata: dict[str, str] = Field(
        default_factory=dict, description="Free labels; sent along, without effect on the fingerprint"
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_seeds(cls, data: Any) -> Any:
        """Let the seeds, where there are any, decide the first seed and the number of takes."""
        seeds = data.get("seeds") if isinstance(data, dict) else None
        if not isinstance(seeds, list | tuple) or not seeds:
            return data
        if data.get("takes") not in (None, 1, len(seeds)):
            raise ValueError(f"seeds: {len(seeds)} are given, and `takes` is {data['takes']}: give one for each take")
        if data.get("seed") not in (None, seeds[0]):
            raise ValueError("seeds: give either `seed` or `seeds`")
        return {**data, "seed": seeds[0], "takes": len(seeds)}

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: the same seed twice would be the same video, paid twice")
        return self

    @field_validator("prompt", mode="wrap")
    @classmethod
    def _require_prompt(cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        if value in (None, "") and info.data.get("clip") is not None:
            return ""
        if value is None:
            raise PydanticKnownError("missing")
        return check(value)

    @model_validator(mode="after")
    def _check_prompt(self) -> Self:
        if self.clip is None and not self.prompt.strip():
            raise ValueError("prompt is blank: say what is to be seen")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the shots that must be stored before this one is made."""
        parents = (self.parent,) if self.parent else ()
        return tuple(dict.fromkeys((*self.depends_on, *parents)))

    @property
    def parent(self) -> str | None:
        """Id of the shot that this one continues or remixes: its request is known only when that one is stored."""
        return self.continue_from or self.remix_of

    @property
    def lineage(self) -> str:
        """Relation to the parent, for a message: `continues 'opening'`; empty without a parent."""
        if self.parent is None:
            return ""
        return f"{'continues' if self.continue_from else 'remixes'} {self.parent!r}"

    @property
    def images(self) -> dict[str, tuple[str, ...]]:
        """Paths and URLs of all images by field; fields without any are left out."""
        frames = {"first_frame": self.first_frame, "last_frame": self.last_frame}
        given = {field: (image,) for field, image in frames.items() if image is not None}
        return {**given, **({"references": self.references} if self.references else {})}

    @property
    def inputs(self) -> dict[str, Any]:
        """Frames, references, sound, watermark and options, those that the shot has."""
        given = {name: getattr(self, name) for name in ("first_frame", "last_frame", "audio", "watermark")}
        several = {"references": list(self.references), "options": self.options}
        return {name: value for name, value in {**given, **several}.items() if value not in (None, [], {})}

    @property
    def has_own_shape(self) -> bool:
        """True where the aspect ratio of the video is known before it is made."""
        return self.size is not None or self.aspect_ratio != ADAPTIVE

    @property
    def frame_size(self) -> tuple[int, int]:
        """Width and height of the video in pixels; nominal where the shot has no shape of its own."""
        if self.size is not None:
            width, height = map(int, self.size.split("x"))
            return width, height
        return frame_size(self.aspect_ratio, self.resolution)

    @property
    def lines(self) -> str:
        """Length of the shorter side in the form of a resolution, such as `1024p`."""
        return f"{min(self.frame_size)}p" if self.size is not None else self.resolution

    def for_take(self, take: int) -> Shot:
        """Return the shot as one of its takes requests it: with a seed of its own, where the shot has any."""
        # Where an account takes no seed, the shot was adapted to have none.
        if self.seed is None or (take == 1 and not self.seeds):
            return self
        seed = self.seeds[take - 1] if self.seeds else (self.seed + take - 1) % (SEED_LIMIT + 1)
        return self.model_copy(update={"seed": seed, "seeds": ()})

    @property
    def length_seconds(self) -> float:
        """Requested length in seconds: `num_frames` at `fps` where the shot has that number, else the duration."""
        return self.num_frames / (self.fps or DEFAULT_FPS) if self.num_frames else float(self.duration)


class ShotDefaults(Input):
    """Default values for the shots of a project."""

    model_config = ConfigDict(json_schema_extra=_describe_as_shot)

    model: ModelName | None = None
    duration: Duration | None = None
    aspect_ratio: AspectRatio | None = None
    resolution: Resolution | None = None
    size: Size | None = None
    seed: Seed | None = None
    negative_prompt: Prompt | None = None
    fps: int | None = Field(default=None, ge=1, le=120, strict=True)
    num_frames: int | None = Field(default=None, ge=1, le=10_000, strict=True)
    num_inference_steps: int | None = Field(default=None, ge=1, le=1_000, strict=True)
    guidance_scale: Number | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    first_frame: ImageAddress | None = None
    last_frame: ImageAddress | None = None
    references: tuple[str, ...] | None = None
    audio: bool | None = Field(default=None, strict=True)
    watermark: bool | None = Field(default=None, strict=True)
    options: Options | None = None
    takes: int | None = Field(default=None, ge=1, le=TAKES_LIMIT, strict=True)
    choose: ChoicePolicy | None = None
    approve: bool | None = Field(default=None, strict=True)
    metadata: dict[str, str] | None = None


def as_shot(shot: Shot | str) -> Shot:
    """Return a shot as it is, or build one from a prompt, with an id from its first words.

    Raises:
        pydantic.ValidationError: The prompt is empty or too long.
    """
    return shot if isinstance(shot, Shot) else Shot(id=slug(shot), prompt=shot)


def slug(text: str, *, fallback: str = "shot") -> str:
    """Build an `Identifier` from free text, for shots without an id of their own."""
    words = re.findall(r"[A-Za-z0-9]+", text.lower())
    return "-".join(words)[:40].strip("-") or fallback
