"""Whether a shot fits what a provider offers, and what to say when it does not."""

from __future__ import annotations

from prefect_video.errors import Unsupported
from prefect_video.providers.base import OPTIONAL_FIELDS, Capabilities
from prefect_video.shots import Shot


def check_fit(shot: Shot, offered: Capabilities, *, by: str) -> None:
    """Lets a shot pass that the capabilities cover.

    Args:
        shot: What is wanted.
        offered: What can be made.
        by: Who offers it, for the message: `sora plan 'plus'`.

    Raises:
        Unsupported: The message names the shot, the field and the nearest value that is offered.
    """
    if shot.resolution not in offered.sizes:
        sizes = ", ".join(sorted(offered.sizes, key=lambda size: int(size[:-1])))
        raise Unsupported(f"shot {shot.id!r}: resolution: {by} has no {shot.resolution}; it has {sizes}")
    longest = offered.sizes[shot.resolution]
    if shot.duration > longest:
        raise Unsupported(
            f"shot {shot.id!r}: duration: {by} makes at most {longest} s at {shot.resolution}, not {shot.duration} s"
        )
    if offered.durations and shot.duration not in offered.durations:
        nearest = min(offered.durations, key=lambda seconds: (abs(seconds - shot.duration), -seconds))
        raise Unsupported(f"shot {shot.id!r}: duration: {by} makes no {shot.duration} s; the nearest is {nearest} s")
    if shot.aspect_ratio not in offered.aspect_ratios:
        ratios = ", ".join(offered.aspect_ratios)
        raise Unsupported(f"shot {shot.id!r}: aspect_ratio: {by} has no {shot.aspect_ratio}; it has {ratios}")
    for field in OPTIONAL_FIELDS:
        if getattr(shot, field) not in (None, ()) and field not in offered.takes:
            raise Unsupported(f"shot {shot.id!r}: {field}: {by} takes none; leave it out")


def adapt(shot: Shot, offered: Capabilities) -> tuple[Shot, list[str]]:
    """The nearest shot that the capabilities cover, and what was changed, one sentence each.

    The duration goes to the nearest that is offered (the longer of two), the resolution to the best one not above
    what is asked, else the lowest; optional fields that are not taken are left out. An aspect ratio is never changed:
    it is another picture.
    """
    changes: dict[str, object] = {}
    resolution = shot.resolution
    if resolution not in offered.sizes:
        lines = sorted((int(size[:-1]), size) for size in offered.sizes)
        resolution = max((one for one in lines if one[0] <= int(resolution[:-1])), default=lines[0])[1]
        changes["resolution"] = resolution
    allowed = [s for s in (offered.durations or range(1, 21)) if s <= offered.sizes[resolution]]
    duration = min(allowed, key=lambda seconds: (abs(seconds - shot.duration), -seconds), default=shot.duration)
    if duration != shot.duration:
        changes["duration"] = duration
    for field in OPTIONAL_FIELDS:
        if getattr(shot, field) not in (None, ()) and field not in offered.takes:
            changes[field] = () if field == "references" else None
    said = [f"{field}: {getattr(shot, field)!r} became {value!r}" for field, value in changes.items()]
    return shot.model_copy(update=changes), said
