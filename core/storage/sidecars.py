"""The JSON file beside every stored video that says what it is and where it came from."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from pydantic import ValidationError

from prefect_video.assets import Asset


def sidecar_path(video: PurePosixPath) -> PurePosixPath:
    """Where the sidecar of a video lies."""
    return video.with_suffix(".json")


def thumbnail_path(video: PurePosixPath) -> PurePosixPath:
    """Where the still picture of a video lies."""
    return video.with_suffix(".jpg")


def write_sidecar(asset: Asset) -> bytes:
    """The sidecar's content: the asset's record as indented UTF-8 JSON with sorted keys."""
    record = asset.model_dump(mode="json")
    return (json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_sidecar(content: bytes) -> Asset | None:
    """The asset that a sidecar describes; None when it is not one of ours."""
    try:
        return Asset.model_validate_json(content)
    except ValidationError:
        return None
