"""How a shot is asked for in the OpenAI Videos dialect: as JSON or as a form, by the server's profile."""

from __future__ import annotations

import asyncio
import base64
import json
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_video.errors import RequestRejected
from prefect_video.providers.http import Part
from prefect_video.providers.openai.profiles import EXTRAS, Profile
from prefect_video.shots import DEFAULT_MODEL, Shot


@dataclass(frozen=True)
class Body:
    """The body of a request; one of the two."""

    json: dict[str, Any] | None = None
    form: tuple[tuple[str, Part], ...] | None = None


@dataclass(frozen=True)
class _Reference:
    name: str
    content: bytes
    media_type: str


async def create_body(shot: Shot, profile: Profile, *, idempotency_key: str) -> Body:
    """The body that asks for a shot.

    Args:
        shot: What is wanted.
        profile: How the server wants to be asked.
        idempotency_key: Names the folder of the video, where the profile has one for that.

    Raises:
        RequestRejected: A reference cannot be read; nothing was sent.
    """
    reference = await asyncio.to_thread(_read, shot, profile) if shot.references else None
    fields = _fields(shot, profile)
    if profile.output_folder is not None:
        fields["output_path"] = f"{profile.output_folder}/{idempotency_key}"
    if profile.body == "json" or (profile.body == "form_with_file" and reference is None):
        if reference is not None:
            fields["input_reference"] = base64.b64encode(reference.content).decode()
        return Body(json=fields)
    parts: list[tuple[str, Part]] = [(name, (None, _as_text(value))) for name, value in fields.items()]
    if reference is not None:
        parts.append(("input_reference", (reference.name, reference.content, reference.media_type)))
    return Body(form=tuple(parts))


def _fields(shot: Shot, profile: Profile) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": shot.model, "prompt": shot.prompt, "size": profile.size_of(shot)}
    if profile.one_model and shot.model == DEFAULT_MODEL:
        # Nobody asked for it by name, and engines refuse names that are not that of their model.
        del fields["model"]
    if shot.num_frames is None:
        fields["seconds"] = _seconds(shot.duration, profile)
    extras = {name: getattr(shot, name) for name in EXTRAS if getattr(shot, name) is not None}
    if profile.nested_extras and extras:
        fields["extra_body"] = extras
    else:
        fields |= extras
    return fields


def _seconds(duration: int, profile: Profile) -> str | int | float:
    match profile.seconds:
        case "text":
            return str(duration)
        case "whole":
            return duration
        case "number":
            return float(duration)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read(shot: Shot, profile: Profile) -> _Reference:
    path = Path(shot.references[0])
    try:
        content = path.read_bytes()
    except OSError as error:
        # By now the row is marked as being sent: only a refusal says that nothing was.
        raise RequestRejected(
            f"shot {shot.id!r}: references: cannot read {path}: {error.strerror}; nothing was sent",
            provider=profile.provider,
        ) from error
    return _Reference(path.name, content, mimetypes.guess_type(path.name)[0] or "application/octet-stream")
