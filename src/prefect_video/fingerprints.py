"""The prompt hash: what makes two requests the same video.

SHA-256 over canonical JSON of everything that changes the output: provider, model, prompt, parameters, seed,
reference images by content, and the take. The shot's id, its project, metadata and dependencies are left out.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from prefect_video.shots import Shot

VERSION: Final = "v1"

_WITHOUT_EFFECT: Final = frozenset({"id", "depends_on", "takes", "metadata", "references"})


def fingerprint(shot: Shot, *, provider: str, take: int = 1, reference_digests: tuple[str, ...] | None = None) -> str:
    """The prompt hash of one take of a shot at a provider, as `v1:<64 hex digits>`.

    Args:
        shot: What is asked for.
        provider: Name of the provider; another provider makes another video.
        take: 1 for the first take.
        reference_digests: SHA-256 of each reference image's content, in order; needed when the shot has any.

    Raises:
        ValueError: The shot has references and their digests are not given.
    """
    if len(reference_digests or ()) != len(shot.references):
        raise ValueError(f"shot {shot.id!r}: every reference needs the digest of its content")
    asked = {
        name: value
        for name, value in shot.model_dump(mode="python").items()
        if name not in _WITHOUT_EFFECT and value is not None
    }
    request = {**asked, "provider": provider, "take": take}
    if reference_digests:
        request["references"] = list(reference_digests)
    digest = hashlib.sha256(f"{VERSION}\n{canonical_json(request)}".encode()).hexdigest()
    return f"{VERSION}:{digest}"


def canonical_json(value: Any) -> str:
    """JSON in one spelling: sorted keys, no spaces, Unicode NFC, whole floats as integers."""
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _canonical(value: Any) -> Any:
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value
