"""Records of a final cut: everything that `cut:` in a project file may say.

They import neither PyAV nor Pillow, so that a project is read and checked in milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from prefect_video.inputs import Input, Number, WholeNumber

DEFAULT_CROSSFADE_SECONDS: Final = 0.5
LONGEST_CROSSFADE_SECONDS: Final = 10.0
LONGEST_CARD_SECONDS: Final = 60.0

_LONGEST_SHAPE: Final = 4
_MOST_LINES: Final = 4320
_FOUR_K_LINES: Final = 2160

Codec = Literal["libx264", "libsvtav1", "libvpx-vp9"]

_PRESETS: Final[dict[Codec, tuple[str, ...]]] = {
    "libx264": (
        *("ultrafast", "superfast", "veryfast", "faster", "fast"),
        *("medium", "slow", "slower", "veryslow"),
    ),
    "libsvtav1": tuple(str(number) for number in range(14)),
    "libvpx-vp9": tuple(str(number) for number in range(9)),
}

Colour = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$", strict=True)]
"""Colour as `#rrggbb`."""

FilePath = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
"""Path of a local file, relative to the project file, or from elsewhere to the working folder."""

_AspectRatio = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,2}:[1-9][0-9]{0,2}$", strict=True)]
_Resolution = Annotated[str, StringConstraints(pattern=r"^(?:[1-9][0-9]{2,3}p|4k)$", strict=True)]
_Line = Annotated[str, StringConstraints(min_length=1, max_length=500, strict=True)]


def _show_shorthand(schema: dict[str, Any], model: type[Any]) -> None:
    """Change the schema of a record so that the value of its main field alone is valid too."""
    title = schema.pop("title", model.__name__)
    whole = dict(schema)
    main = {key: value for key, value in whole["properties"][model.main_field].items() if key != "title"}
    main.pop("default", None)
    schema.clear()
    schema.update(title=title, anyOf=[main, whole])


class Shorthand(Input):
    """Base of records that a single value may stand for: that of their main field.

    Attributes:
        main_field: Name of the field that the value is for.
    """

    model_config = ConfigDict(json_schema_extra=_show_shorthand)
    main_field: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        return data if isinstance(data, dict | BaseModel) else {cls.main_field: data}


class Transition(Shorthand):
    """Change from one part of a film to the next: `cut`, or `crossfade` with its seconds."""

    main_field = "type"
    type: Literal["cut", "crossfade"] = Field(description="A hard cut, or a crossfade of picture and sound")
    seconds: Number | None = Field(
        default=None,
        gt=0,
        le=LONGEST_CROSSFADE_SECONDS,
        allow_inf_nan=False,
        description=f"Length of a crossfade; unset: {DEFAULT_CROSSFADE_SECONDS}",
    )

    @model_validator(mode="after")
    def _check_seconds(self) -> Self:
        if self.type == "cut" and self.seconds is not None:
            raise ValueError("a cut takes no seconds; write `type: crossfade`, or leave them out")
        return self

    @property
    def length_seconds(self) -> float:
        """Seconds in which both parts are seen: 0 for a cut."""
        return 0.0 if self.type == "cut" else self.seconds or DEFAULT_CROSSFADE_SECONDS


CUT: Final = Transition(type="cut")


class Trim(Input):
    """Part of a clip that is used, in seconds of that clip."""

    start: Number = Field(default=0.0, ge=0, allow_inf_nan=False, description="Where the part begins")
    end: Number | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Where the part ends; unset: at the clip's end"
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"the part ends at {self.end:g} s and begins at {self.start:g} s: it has no length")
        return self


class CutClip(Shorthand):
    """Stored take of a shot as one part of a film; the shot's id alone stands for it."""

    main_field = "shot"
    shot: Annotated[str, StringConstraints(min_length=1, max_length=100, strict=True)] = Field(
        description="Id of a shot of this project"
    )
    take: WholeNumber | None = Field(default=None, ge=1, description="Number of the take; unset: the chosen one")
    trim: Trim = Field(default=Trim(), description="Part of the clip that is used")
    transition: Transition | None = Field(
        default=None, description="Transition from the part before; unset: the cut's `transition`"
    )

    @property
    def label(self) -> str:
        """Name of the clip: `opening` for the chosen take, `opening@1` and `opening@2` for takes that are named."""
        return self.shot if self.take is None else f"{self.shot}@{self.take}"


class Card(Shorthand):
    """Still picture with text, before the first clip or after the last."""

    main_field = "text"
    text: _Line = Field(description="The title; line breaks are kept, long lines are wrapped")
    subtitle: _Line | None = Field(default=None, description="A second, smaller text below it")
    seconds: Number = Field(default=3.0, gt=0, le=LONGEST_CARD_SECONDS, allow_inf_nan=False, description="Length")
    background: Colour = Field(default="#14161a", description="Colour of the card")
    color: Colour = Field(default="#f4f1ea", description="Colour of the text")
    transition: Transition | None = Field(
        default=None, description="Transition between the card and the clip beside it; unset: the cut's `transition`"
    )


class Music(Shorthand):
    """Music under the whole film; a file that is shorter begins again."""

    main_field = "file"
    file: FilePath = Field(description="Audio file")
    gain_db: Number = Field(default=-8.0, ge=-60, le=20, description="Change of its loudness in dB")
    start: Number = Field(default=0.0, ge=0, allow_inf_nan=False, description="Second of the file to begin at")
    fade_in_seconds: Number = Field(default=1.0, ge=0, le=60, description="Length of the fade at the film's start")
    fade_out_seconds: Number = Field(default=2.0, ge=0, le=60, description="Length of the fade at the film's end")
    duck: bool = Field(default=True, description="Lower it while the clips have sound of their own")


class Cue(Input):
    """One caption."""

    start: Number = Field(ge=0, allow_inf_nan=False, description="Second of the film at which it appears")
    end: Number = Field(gt=0, allow_inf_nan=False, description="Second of the film at which it disappears")
    text: _Line = Field(description="Its text, with line breaks where they are wanted")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"the caption ends at {self.end:g} s and begins at {self.start:g} s: it has no length")
        return self


class Captions(Shorthand):
    """Captions, from an SRT or WebVTT file or a list; their times are those of the finished film."""

    main_field = "file"
    file: FilePath | None = Field(default=None, description="File in SRT or WebVTT")
    cues: tuple[Cue, ...] = Field(default=(), max_length=10_000, description="The captions, instead of a file")
    mode: Literal["burned", "soft"] = Field(
        default="burned", description="Part of the picture, or a text track that players can switch on"
    )
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{3}$")] = Field(
        default="eng", description="Language of a text track, as the three letters of ISO 639-2"
    )

    @model_validator(mode="before")
    @classmethod
    def _take_list(cls, data: Any) -> Any:
        return {"cues": data} if isinstance(data, list | tuple) else data

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.file is None) == (not self.cues):
            raise ValueError("give a file or a list of cues, and not both")
        return self


class Loudness(Shorthand):
    """Loudness of the finished film, by EBU R128."""

    main_field = "target_lufs"
    target_lufs: Number = Field(
        default=-16.0, ge=-40, le=-5, description="Integrated loudness: -14 to -16 for the web, -23 for broadcast"
    )
    true_peak_db: Number = Field(default=-1.5, ge=-9, le=0, description="Highest peak in dBTP")


class Format(Shorthand):
    """Size and frame rate of the film; what is unset is as in the first clip."""

    main_field = "aspect_ratio"
    aspect_ratio: _AspectRatio | None = Field(default=None, description="Width to height, such as 16:9, 9:16 or 1:1")
    fit: Literal["crop", "pad", "blur"] = Field(
        default="crop",
        description="What to do with a clip of another shape: fill the picture and lose its edges, show it whole on"
        " `background`, or show it whole on a blurred copy of itself",
    )
    resolution: _Resolution | None = Field(default=None, description="Length of the shorter side, such as 1080p")
    fps: Number | None = Field(default=None, ge=1, le=120, description="Frames per second")
    background: Colour = Field(default="#000000", description="Colour around clips that are padded")

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.aspect_ratio is not None:
            width, height = map(int, self.aspect_ratio.split(":"))
            if not 1 / _LONGEST_SHAPE <= width / height <= _LONGEST_SHAPE:
                raise ValueError(
                    f"aspect_ratio: from 1:{_LONGEST_SHAPE} to {_LONGEST_SHAPE}:1, not {self.aspect_ratio}"
                )
        if self.lines is not None and self.lines > _MOST_LINES:
            raise ValueError(f"resolution: at most {_MOST_LINES}p, not {self.resolution}")
        return self

    @property
    def lines(self) -> int | None:
        """Length of the shorter side in pixels; None where it is not requested."""
        if self.resolution is None:
            return None
        return _FOUR_K_LINES if self.resolution == "4k" else int(self.resolution.removesuffix("p"))


class Encoder(Shorthand):
    """Encoder of a film that cannot be joined without encoding."""

    main_field = "codec"
    codec: Codec = Field(default="libx264", description="libx264 and libsvtav1 make an MP4, libvpx-vp9 a WebM")
    crf: WholeNumber | None = Field(
        default=None,
        ge=0,
        le=63,
        description="Quality, lower is better; unset: 18 for libx264, 28 and 30 for the others",
    )
    preset: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,20}$")] | None = Field(
        default=None, description="Speed, in the encoder's own terms (`veryfast`, `8`)"
    )

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        presets, highest = _PRESETS[self.codec], 51 if self.codec == "libx264" else 63
        if self.preset is not None and self.preset not in presets:
            raise ValueError(f"preset: {self.codec} has {', '.join(presets)}, and not {self.preset!r}")
        if self.crf is not None and self.crf > highest:
            raise ValueError(f"crf: at most {highest} with {self.codec}, not {self.crf}")
        return self

    @property
    def container(self) -> Literal["mp4", "webm"]:
        """Container that fits the codec."""
        return "webm" if self.codec == "libvpx-vp9" else "mp4"


class Cut(Input):
    """Final cut of a project: which clips, in which order, and what is put around and over them."""

    order: tuple[CutClip, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=10_000,
        description="The clips, as ids of shots or with take, trim and transition; unset: every shot once, in order",
    )
    transition: Transition = Field(default=CUT, description="Transition wherever none is given")
    title_card: Card | None = Field(default=None, description="Card before the first clip")
    end_card: Card | None = Field(default=None, description="Card after the last clip")
    music: Music | None = Field(default=None, description="Music under the whole film")
    captions: Captions | None = Field(default=None, description="Captions of the film")
    loudness: Loudness | None = Field(default=None, description="Loudness of the film; unset: as the clips have it")
    format: Format = Field(default=Format(), description="Size and frame rate of the film")
    encoder: Encoder | None = Field(
        default=None,
        description="Encoder; unset: clips that agree are joined without encoding, and libx264 encodes the others",
    )
    font: FilePath | None = Field(
        default=None, description="TrueType or OpenType file for cards and captions; unset: Source Sans Pro"
    )
    preview: Literal["webp", "gif"] = Field(default="webp", description="Kind of the small animated preview")

    @model_validator(mode="after")
    def _check_container(self) -> Self:
        soft = self.captions is not None and self.captions.mode == "soft"
        if soft and self.encoder is not None and self.encoder.container == "webm":
            raise ValueError("captions: a text track needs an MP4: burn them in, or use libx264 or libsvtav1")
        return self

    @property
    def container(self) -> Literal["mp4", "webm"]:
        """Container of the film, and so the ending of its name."""
        return (self.encoder or Encoder()).container

    def resolve_paths(self, folder: Path) -> Cut:
        """Return the cut with the paths of its files taken as relative to a folder."""
        changes: dict[str, Any] = {}
        for name in ("music", "captions"):
            record: Music | Captions | None = getattr(self, name)
            if record is not None and record.file is not None:
                changes[name] = record.model_copy(update={"file": _resolve(folder, record.file)})
        if self.font is not None:
            changes["font"] = _resolve(folder, self.font)
        return self.model_copy(update=changes) if changes else self


def _resolve(folder: Path, path: str) -> str:
    return str(folder.absolute() / Path(path).expanduser())
