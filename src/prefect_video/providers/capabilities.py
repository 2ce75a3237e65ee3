"""Checks of shots against capabilities, and adaptation of a shot to the nearest one that they cover."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final

from prefect_video.downloads import show_source
from prefect_video.errors import InvalidInput, Unsupported
from prefect_video.frame_sizes import ADAPTIVE, Resolution, frame_size, nearest_ratio
from prefect_video.providers.base import OPTIONAL_FIELDS, Capabilities
from prefect_video.shots import DURATION_LIMIT, Shot

SAME_SHAPE_SHARE: Final = 0.05
"""Deviation up to which a ratio of sides counts as one of the usual aspect ratios: 1792 by 1024 is 16:9."""

_UNSET: Final[Mapping[str, Any]] = {"references": (), "options": {}}
"""Value of a field that is left out, where that is not None."""


def check_supported(shot: Shot, offered: Capabilities, *, by: str) -> None:
    """Reject a shot that the capabilities do not cover.

    Args:
        shot: The shot.
        offered: The capabilities.
        by: Owner of the capabilities, for the message: `sora plan 'plus'`.

    Raises:
        Unsupported: The message names the shot, the field and the nearest value that is offered.
    """
    if shot.clip is not None:
        raise Unsupported(f"shot {shot.id!r}: clip: its video was made by hand, and is not sent to a provider")
    if shot.size is None and shot.resolution not in offered.sizes:
        sizes = ", ".join(_sorted(offered.sizes)) or "none that a shot can ask for"
        nearest = f"; the nearest is {_nearest_size(shot, offered)}" if len(offered.sizes) > 1 else ""
        raise Unsupported(f"shot {shot.id!r}: resolution: {by} has no {shot.resolution}; it has {sizes}{nearest}")
    if shot.remix_of is not None and not offered.can_remix:
        raise Unsupported(
            f"shot {shot.id!r}: remix_of: {by} makes no remixes; openai does, and the emulator (sora and openai); use"
            " continue_from or references elsewhere"
        )
    longest = _longest_seconds(shot, offered)
    if _whole_seconds(shot) > longest:
        raise Unsupported(
            f"shot {shot.id!r}: {_length_field(shot)}: {by} makes at most {longest} s at"
            f" {shot.size or shot.resolution}, not {shot.length_seconds:g} s"
        )
    if offered.durations and _whole_seconds(shot) not in offered.durations:
        seconds = min(offered.durations, key=lambda seconds: _distance(seconds, shot))
        raise Unsupported(
            f"shot {shot.id!r}: {_length_field(shot)}: {by} makes no {shot.length_seconds:g} s;"
            f" the nearest is {seconds} s"
        )
    if shot.size is None and shot.aspect_ratio not in offered.aspect_ratios:
        ratios = ", ".join(offered.aspect_ratios)
        ratio = nearest_ratio(shot.aspect_ratio, offered.aspect_ratios)
        nearest = f"; the nearest is {ratio}" if len(offered.aspect_ratios) > 1 else ""
        raise Unsupported(f"shot {shot.id!r}: aspect_ratio: {by} has no {shot.aspect_ratio}; it has {ratios}{nearest}")
    for field in _find_unsupported(shot, offered):
        raise Unsupported(f"shot {shot.id!r}: {field}: {by} takes none; leave it out")
    if len(shot.references) > (most := _max_references(shot, offered)):
        raise Unsupported(f"shot {shot.id!r}: references: {by} takes {most}, not {len(shot.references)}")
    if _has_surplus_references(shot, offered):
        raise Unsupported(f"shot {shot.id!r}: references: {by} takes none beside a first or last frame; leave one out")


def check_options(shot: Shot, own: Collection[str], *, by: str) -> None:
    """Reject options that would override what the shot's own fields send.

    Args:
        shot: The shot.
        own: Names, in the request, of what the shot's own fields send.
        by: What takes the options, for the message.

    Raises:
        InvalidInput: The message names shot and option.
    """
    if taken := sorted(set(shot.options) & set(own)):
        raise InvalidInput(
            f"shot {shot.id!r}: options: {by} gets {', '.join(map(repr, taken))} from the shot's own fields; set those"
        )


def adapt(shot: Shot, offered: Capabilities) -> tuple[Shot, list[str]]:
    """Return the nearest shot that the capabilities cover, and its changes, one sentence each.

    The duration becomes the nearest that is offered (the longer of two), also for a number of frames that is not; the
    resolution the best one not above the requested, else the lowest. Optional fields that are not supported are left
    out, and so are surplus references, and those beside a frame where both do not go together. An aspect ratio is never
    changed: it would be another picture.

    Raises:
        Unsupported: No resolution is offered that a shot can ask for.
    """
    if not offered.sizes:
        raise Unsupported(
            f"shot {shot.id!r}: resolution: none is offered that a shot can ask for; choose another model"
        )
    changes: dict[str, Any] = {}
    if shot.size is None:
        changes |= _nearest_resolution(shot, offered)
    elif "size" not in offered.optional_fields:
        changes |= _without_size(shot, offered)
    fitted = shot.model_copy(update=changes)
    if not (shot.num_frames and "num_frames" in offered.optional_fields and _is_length_offered(fitted, offered)):
        changes |= _nearest_duration(fitted, offered)
    for field in _find_unsupported(fitted, offered):
        if field != "size":
            changes[field] = _UNSET.get(field)
    if len(shot.references) > (most := _max_references(shot, offered)) and "references" not in changes:
        changes["references"] = shot.references[:most]
    if _has_surplus_references(shot.model_copy(update=changes), offered):
        changes["references"] = ()
    changes = {field: value for field, value in changes.items() if value != getattr(shot, field)}
    sentences = [f"{field}: {_show_value(shot, field)!r} became {value!r}" for field, value in changes.items()]
    return shot.model_copy(update=changes), sentences


def _show_value(shot: Shot, field: str) -> Any:
    """Return the value of a field for a message, without what may be secret in the URLs of images."""
    value = getattr(shot, field)
    images = shot.images.get(field)
    if images is None:
        return value
    shown = tuple(map(show_source, images))
    return shown if isinstance(value, tuple) else shown[0]


def _nearest_resolution(shot: Shot, offered: Capabilities) -> dict[str, Any]:
    if shot.resolution in offered.sizes:
        return {}
    return {"resolution": _best_resolution(offered, int(shot.resolution[:-1]))}


def _without_size(shot: Shot, offered: Capabilities) -> dict[str, Any]:
    """Replace a size by the aspect ratio and resolution that are near it; change nothing where no ratio is near."""
    resolution = _best_resolution(offered, min(shot.frame_size))
    width, height = shot.frame_size
    for ratio in offered.aspect_ratios:
        if ratio == ADAPTIVE:
            continue
        usual_width, usual_height = frame_size(ratio, resolution)
        if abs(width / height * usual_height / usual_width - 1) <= SAME_SHAPE_SHARE:
            return {"size": None, "aspect_ratio": ratio, "resolution": resolution}
    return {}


def _nearest_duration(shot: Shot, offered: Capabilities) -> dict[str, Any]:
    longest = _longest_seconds(shot, offered)
    allowed = [seconds for seconds in (offered.durations or range(1, DURATION_LIMIT + 1)) if seconds <= longest]
    duration = min(allowed, key=lambda seconds: _distance(seconds, shot), default=shot.duration)
    return {"num_frames": None, "duration": duration}


def _best_resolution(offered: Capabilities, lines: int) -> Resolution:
    """Return the best resolution that has no more lines, else the lowest."""
    sizes = _sorted(offered.sizes)
    return next((size for size in reversed(sizes) if int(size[:-1]) <= lines), sizes[0])


def _nearest_size(shot: Shot, offered: Capabilities) -> Resolution:
    return min(_sorted(offered.sizes), key=lambda size: abs(int(size[:-1]) - int(shot.resolution[:-1])))


def _sorted(sizes: Collection[Resolution]) -> list[Resolution]:
    return sorted(sizes, key=lambda size: int(size[:-1]))


def _longest_seconds(shot: Shot, offered: Capabilities) -> int:
    any_size = max(offered.sizes.values(), default=0)
    return any_size if shot.size is not None else offered.sizes.get(shot.resolution, any_size)


def _is_length_offered(shot: Shot, offered: Capabilities) -> bool:
    seconds = _whole_seconds(shot)
    return seconds <= _longest_seconds(shot, offered) and (not offered.durations or seconds in offered.durations)


def _whole_seconds(shot: Shot) -> int:
    """Return the length in whole seconds, as lengths are offered: a model of 5 s also makes a few frames more."""
    return math.floor(shot.length_seconds)


def _distance(seconds: int, shot: Shot) -> tuple[float, int]:
    return abs(seconds - shot.length_seconds), -seconds


def _length_field(shot: Shot) -> str:
    return "num_frames" if shot.num_frames else "duration"


def _find_unsupported(shot: Shot, offered: Capabilities) -> list[str]:
    return [
        field
        for field in OPTIONAL_FIELDS
        if getattr(shot, field) not in (None, (), {}) and field not in offered.optional_fields
    ]


def _has_surplus_references(shot: Shot, offered: Capabilities) -> bool:
    return bool(shot.references and (shot.first_frame or shot.last_frame) and not offered.mixes_images)


def _max_references(shot: Shot, offered: Capabilities) -> int:
    return len(shot.references) if offered.max_references is None else offered.max_references
