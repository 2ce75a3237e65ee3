"""Stored videos as assets of Prefect, so that lineage shows what is made from them downstream."""

from __future__ import annotations

import re
from typing import Final

from prefect.assets import Asset as PrefectAsset
from prefect.assets import AssetProperties
from prefect.context import AssetContext

from prefect_video.assets import Asset

_KEY_LIMIT: Final = 500
_NOT_IN_KEYS: Final = re.compile(r"[^A-Za-z0-9._~:/@+,;=()!$*-]")


def asset_key(uri: str) -> str:
    """Return the key of a stored video: its address, with characters that Prefect refuses replaced by `_`."""
    scheme, _, place = _NOT_IN_KEYS.sub("_", uri).partition("://")
    return f"{scheme}://{place[-_KEY_LIMIT:]}"


def record_materialized(asset: Asset) -> None:
    """Add a stored video to the assets that the current task run materializes; Prefect emits the event at its end.

    The key is known only once the video is stored, so that `@materialize` cannot name it beforehand. Outside of a task
    run nothing is recorded.
    """
    context = AssetContext.get()
    if context is None:
        return
    key = asset_key(asset.uri)
    name = f"{asset.project}/{asset.shot_id}" if asset.take == 1 else f"{asset.project}/{asset.shot_id}@{asset.take}"
    context.downstream_assets.add(PrefectAsset(key=key, properties=AssetProperties(name=name)))
    context.update_tracked_assets()
    context.add_asset_metadata(
        key,
        {
            "uri": asset.uri,
            "sha256": asset.sha256,
            "bytes": asset.bytes,
            "duration_seconds": asset.duration_seconds,
            "cost_usd": None if asset.cost_usd is None else str(asset.cost_usd),
            "provider": asset.provider,
            "model": asset.model,
            "generation_id": asset.generation_id,
            "fingerprint": asset.fingerprint,
        },
    )
