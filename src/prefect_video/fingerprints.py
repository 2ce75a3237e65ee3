"""Fingerprints (prompt hashes): two requests with the same one are requests for the same video.

A fingerprint is the SHA-256 of canonical JSON of everything that changes the output: provider, model, prompt,
parameters, seed, options, frames and reference images by content, the generation that is remixed, and the take.
The shot's id, its project, metadata and dependencies are left out.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from prefect_video.shots import Shot

VERSION: Final = "v1"
"""Version of the encoding, part of every fingerprint. A change of the encoding without a new one would buy every stored
video again."""

_WITHOUT_EFFECT: Final = frozenset(
    {"id", "depends_on", "takes", "seeds", "choose", "approve", "continue_from", "remix_of", "metadata", "clip"}
)
_IMAGES: Final = frozenset({"first_frame", "last_frame", "references"})
"""Fields that count by the content of their files."""
_COUNTED: Final = tuple(name for name in Shot.model_fields if name not in _WITHOUT_EFFECT | _IMAGES)


def fingerprint(
    shot: Shot,
    *,
    provider: str,
    take: int = 1,
    reference_digests: tuple[str, ...] | None = None,
    frame_digests: Mapping[str, str] | None = None,
) -> str:
    """Return the prompt hash of one take of a shot at a provider, as `v1:<64 hex digits>`.

    Args:
        shot: The shot.
        provider: Name of the provider; another provider makes another video.
        take: Number of the take, from 1.
        reference_digests: SHA-256 of each reference image's content, in order; needed when the shot has any.
        frame_digests: SHA-256 of the content of `first_frame` and `last_frame`; needed for those that the shot has.

    Raises:
        ValueError: There is not exactly one digest for each of the shot's references and frames.
    """
    if len(reference_digests or ()) != len(shot.references):
        raise ValueError(f"shot {shot.id!r}: every reference needs the digest of its content")
    if set(frame_digests or ()) != set(shot.images) - {"references"}:
        raise ValueError(f"shot {shot.id!r}: every frame needs the digest of its content")
    # Fields that came later are left out while unset, so that older fingerprints stay as they are.
    values = ((name, getattr(shot, name)) for name in _COUNTED)
    parameters = {name: value for name, value in values if value is not None and value != {}}
    request = {**parameters, **(frame_digests or {}), "provider": provider, "take": take}
    if reference_digests:
        request["references"] = list(reference_digests)
    digest = hashlib.sha256(f"{VERSION}\n{canonical_json(request)}".encode()).hexdigest()
    return f"{VERSION}:{digest}"


def clip_fingerprint(identity: str) -> str:
    """Return the fingerprint of a clip that was made by hand.

    Args:
        identity: The SHA-256 of its content; for one that is fetched from an address, the address.
    """
    digest = hashlib.sha256(f"{VERSION}\n{canonical_json({'clip': identity})}".encode()).hexdigest()
    return f"{VERSION}:{digest}"


def canonical_json(value: Any) -> str:
    """Encode a value as JSON in its only spelling: sorted keys, no spaces, Unicode NFC, whole floats as integers."""
    return json.dumps(_canonicalise(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _canonicalise(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else unicodedata.normalize("NFC", value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {_canonicalise(key): _canonicalise(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonicalise(item) for item in value]
    return value
