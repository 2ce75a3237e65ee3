"""Remixes: shots that are made from the generation of another shot, by a new prompt and nothing else.

The provider keeps model, length and picture of the original, so that a remix has them from there too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from prefect_video.shots import Shot

KEPT: Final = (
    "model",
    "duration",
    "aspect_ratio",
    "resolution",
    "size",
    "fps",
    "num_frames",
    "audio",
    "watermark",
)
"""Fields that a remix has from its original."""
REFUSED: Final = (
    "continue_from",
    "clip",
    "seed",
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "first_frame",
    "last_frame",
    "references",
    "options",
)
"""Fields that a remix cannot have: the request has a prompt and nothing else."""


def inherit_kept(shots: Sequence[Any]) -> list[Any]:
    """Return the data of shots, in which each remix has the fields that it keeps from its original and does not state.

    Originals that are missing, or go in a circle, are left to the checks of the project.
    """
    by_id = {_read(shot, "id"): shot for shot in shots}
    return [_with_kept(shot, by_id) if _read(shot, "remix_of") is not None else shot for shot in shots]


def _with_kept(shot: Any, by_id: Mapping[Any, Any]) -> Any:
    original, seen = shot, []
    while (parent := _read(original, "remix_of")) is not None and parent in by_id and parent not in seen:
        seen.append(parent)
        original = by_id[parent]
    kept = {name: value for name in KEPT if (value := _read(original, name)) is not None}
    if isinstance(shot, Shot):
        shot = {name: getattr(shot, name) for name in shot.model_fields_set}
    return {**kept, **{name: value for name, value in shot.items() if value is not None}}


def _read(shot: Any, name: str) -> Any:
    """Return a field that a shot states, with a value that can be the key of a mapping; None where it states none."""
    if isinstance(shot, Shot):
        value = getattr(shot, name) if name in shot.model_fields_set else None
    else:
        value = shot.get(name) if isinstance(shot, dict) else None
    return value if isinstance(value, str | int | float) else None


def find_conflicts(shot: Shot, original: Shot) -> Iterator[tuple[str, str]]:
    """Find the fields of a remix that it cannot have, each with the reason and the next step."""
    if original.clip is not None:
        yield "remix_of", f"{original.id!r} is a clip that was made by hand, and no generation that can be remixed"
    for name in REFUSED:
        if name in shot.model_fields_set and getattr(shot, name) not in (None, (), {}):
            yield name, "a remix has a prompt and nothing else; leave it out"
    for name in KEPT:
        if getattr(shot, name) != getattr(original, name):
            kept, stated = getattr(original, name), getattr(shot, name)
            yield name, f"a remix keeps that of {original.id!r}, {kept!r}, and cannot have {stated!r}; leave it out"


def as_remix(shot: Shot, original: Shot, generation_id: str) -> Shot:
    """Return a shot as the remix of a generation, in the form in which that was made.

    Args:
        shot: The shot as the project has it.
        original: The shot of the generation's job.
        generation_id: The provider's id of the generation.
    """
    kept = {name: getattr(original, name) for name in KEPT}
    return shot.model_copy(update={**kept, "remixed_from": generation_id})
