"""Requests of the OpenAI Videos dialect: the body of a submit, as JSON or as a form, by the server's profile."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_video.errors import RequestRejected
from prefect_video.providers.http import Part
from prefect_video.providers.openai.profiles import EXTRAS, Profile
from prefect_video.providers.reference_images import find_media_type
from prefect_video.shots import DEFAULT_MODEL, Shot


@dataclass(frozen=True)
class Body:
    """Body of a request: either JSON or a form."""

    json: dict[str, Any] | None = None
    form: tuple[tuple[str, Part], ...] | None = None


@dataclass(frozen=True)
class _Reference:
    name: str
    content: bytes
    media_type: str


async def create_body(shot: Shot, profile: Profile, *, idempotency_key: str) -> Body:
    """Create the body that requests a shot.

    Args:
        shot: The shot, with the server's name of its model.
        profile: The server's profile.
        idempotency_key: Name of the video's folder, where the profile has an output folder.

    Raises:
        RequestRejected: An image cannot be read; nothing was sent.
    """
    reference = await asyncio.to_thread(_read_reference, shot, profile) if shot.images else None
    fields = create_fields(shot, profile)
    if profile.output_folder is not None:
        fields["output_path"] = f"{profile.output_folder}/{idempotency_key}"
    if profile.body == "json" or (profile.body == "form_with_file" and reference is None):
        if reference is not None:
            fields["input_reference"] = base64.b64encode(reference.content).decode()
        return Body(json=fields)
    parts: list[tuple[str, Part]] = [(name, (None, _format_field(value))) for name, value in fields.items()]
    if reference is not None:
        parts.append(("input_reference", (reference.name, reference.content, reference.media_type)))
    return Body(form=tuple(parts))


def create_fields(shot: Shot, profile: Profile) -> dict[str, Any]:
    """Return the fields that request a shot, without its image and the key."""
    fields: dict[str, Any] = {"model": shot.model, "prompt": shot.prompt, "size": profile.format_size(shot)}
    if profile.one_model and shot.model == DEFAULT_MODEL:
        # The user named no model, and engines reject names other than that of their model.
        del fields["model"]
    if shot.num_frames is None:
        fields["seconds"] = _format_seconds(shot.duration, profile)
    extras = {**shot.options, **{name: getattr(shot, name) for name in EXTRAS if getattr(shot, name) is not None}}
    if profile.sound_field is not None and shot.audio is not None:
        extras[profile.sound_field] = shot.audio
    if profile.nested_extras and extras:
        fields["extra_body"] = extras
    else:
        fields = extras | fields
    return fields


def own_names(shot: Shot, profile: Profile) -> set[str]:
    """Return the names of what a shot's own fields send, which its options may not have."""
    fields = create_fields(shot.model_copy(update={"options": {}}), profile)
    reserved = {"input_reference", "extra_body"} | ({"output_path"} if profile.output_folder is not None else set())
    return {*fields, *fields.get("extra_body", {}), "model", "seconds", *reserved}


def _format_seconds(duration: int, profile: Profile) -> str | int | float:
    match profile.seconds:
        case "text":
            return str(duration)
        case "whole":
            return duration
        case "number":
            return float(duration)


def _format_field(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read_reference(shot: Shot, profile: Profile) -> _Reference:
    ((field, (image, *_)), *_) = shot.images.items()
    path = Path(image)
    try:
        content = path.read_bytes()
    except OSError as error:
        # By now the job is marked as being sent: only a rejection proves that nothing was.
        raise RequestRejected(
            f"shot {shot.id!r}: {field}: cannot read {path}: {error.strerror}; nothing was sent",
            provider=profile.provider,
        ) from error
    return _Reference(path.name, content, find_media_type(content, path.name))
