"""Models of fal and Replicate: the input that each takes and its limits, read from `model_inputs.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

from prefect_video.frame_sizes import AspectRatio, Resolution
from prefect_video.providers.base import OPTIONAL_FIELDS, Capabilities
from prefect_video.providers.capabilities import check_options
from prefect_video.shots import DEFAULT_FPS, Shot

ASPECT_RATIOS: Final[tuple[AspectRatio, ...]] = ("16:9", "9:16", "1:1")
"""Aspect ratios of a model that lists none."""
LONGEST_SECONDS: Final = 20
"""Longest duration of a model that lists none."""
RESOLUTIONS: Final[tuple[Resolution, ...]] = ("480p", "720p", "1080p")
"""Resolutions of a model that lists none."""
_IMAGE_FIELDS: Final = ("first_frame", "last_frame", "references")


class ModelInput(BaseModel):
    """Input and limits of one model; the head of the file describes each field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: str
    source: str = ""
    fields: dict[str, str]
    values: dict[str, dict[str, str]] = {}
    duration_form: str | None = None
    frames_per_second: int | None = None
    durations: tuple[int, ...] = ()
    longest: int = LONGEST_SECONDS
    resolutions: tuple[Resolution, ...] = RESOLUTIONS
    aspect_ratios: tuple[AspectRatio, ...] = ASPECT_RATIOS

    def narrow(self, host: Capabilities) -> Capabilities:
        """Return the host's capabilities with this model."""
        sizes = [size for size in self.resolutions if size in self.values.get("resolution", (size,))]
        longest = max(self.durations, default=self.longest)
        return replace(
            host,
            sizes=dict.fromkeys(sizes, longest),
            durations=self.durations,
            aspect_ratios=[ratio for ratio in self.aspect_ratios if ratio in self.values.get("aspect_ratio", (ratio,))],
            optional_fields=[name for name in OPTIONAL_FIELDS if name in self.fields or name == "options"],
            # Many models have one field for either.
            mixes_images=self.fields.get("references") not in map(self.fields.get, ("first_frame", "last_frame")),
        )

    def check_options(self, shot: Shot, *, by: str) -> None:
        """Reject options that would override what the shot's own fields send.

        Raises:
            InvalidInput: The message names shot and option.
        """
        own = self.arguments(shot.model_copy(update={"options": {}}), shot.images)
        check_options(shot, own, by=by)

    def image_names(self) -> dict[str, str]:
        """Return the model's names of the fields for images."""
        return {name: self.fields[name] for name in _IMAGE_FIELDS if name in self.fields}

    def arguments(self, shot: Shot, images: Mapping[str, Sequence[str]] | None = None) -> dict[str, object]:
        """Return the input that requests a shot, under the model's own field names.

        Args:
            shot: The shot.
            images: URLs of its images by field; models take one in each.
        """
        values: dict[str, object] = {
            "prompt": shot.prompt,
            "aspect_ratio": shot.aspect_ratio,
            "resolution": shot.resolution,
            **{name: getattr(shot, name) for name in OPTIONAL_FIELDS if name not in (*_IMAGE_FIELDS, "options")},
            **self._length_fields(shot),
            **{name: urls[0] for name, urls in (images or {}).items()},
        }
        own = {
            self.fields[name]: self.values.get(name, {}).get(str(value), value)
            for name, value in values.items()
            if name in self.fields and value is not None
        }
        return {**shot.options, **own}

    def _length_fields(self, shot: Shot) -> dict[str, object]:
        """Return the fields that determine the length of the video."""
        if shot.num_frames:
            # Without a rate of its own, the length of a shot in frames is checked by our default rate, so that the
            # model must use the same.
            return {"num_frames": shot.num_frames, "fps": shot.fps or DEFAULT_FPS}
        if "duration" in self.fields or self.frames_per_second is None:
            form = self.duration_form
            return {"duration": form.format(shot.duration) if form else shot.duration}
        rate = shot.fps or self.frames_per_second
        # Such models need one frame more than whole groups of four.
        return {"num_frames": shot.duration * rate // 4 * 4 + 1, "fps": rate}


class _Host(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    aliases: dict[str, str]
    models: tuple[ModelInput, ...]


class HostedModels:
    """Registry of one host's models.

    Args:
        host: `fal` or `replicate`.
        aliases: Models by their names in project files, besides those of the YAML file.

    Attributes:
        own_aliases: The aliases by which this account differs from others.
    """

    def __init__(self, host: str, aliases: Mapping[str, str] | None = None) -> None:
        known = _hosts()[host].aliases
        self._models = _hosts()[host].models
        self._aliases = {**known, **(aliases or {})}
        self.own_aliases = own_aliases(aliases, known)

    def name(self, shot: Shot) -> str:
        """Return the host's name of a shot's model."""
        return self._aliases.get(shot.model, shot.model)

    def input(self, shot: Shot) -> ModelInput:
        """Return the input of a shot's model."""
        name = self.name(shot)
        # The last entry of each host matches any name.
        return next(model for model in self._models if fnmatchcase(name, model.match))


def own_aliases(aliases: Mapping[str, str] | None, known: Mapping[str, str]) -> dict[str, str]:
    """Return an account's aliases that give a name another meaning than the known one."""
    return {name: model for name, model in (aliases or {}).items() if model != known.get(name, name)}


@cache
def _hosts() -> Mapping[str, _Host]:
    text = files("prefect_video.providers").joinpath("model_inputs.yaml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, _Host]).validate_python(yaml.safe_load(text))
