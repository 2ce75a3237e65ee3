"""Plans of the Sora dialect: the capabilities of each, from the guide that defines the dialect (October 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from prefect_video.frame_sizes import AspectRatio, Resolution
from prefect_video.generations import Status
from prefect_video.providers.base import Capabilities
from prefect_video.providers.pricing import SORA_USD_PER_SECOND

_RATIOS: Final[tuple[AspectRatio, ...]] = ("16:9", "9:16", "1:1")


_EXTENSIONS: Final = ("first_frame", "last_frame", "references", "audio", "watermark", "options")
"""Fields that the emulator takes beyond the dialect, so that everything can be tried without a provider."""


def _plan(sizes: Mapping[Resolution, int], concurrency: int, monthly_videos: int | None = None) -> Capabilities:
    return Capabilities(
        sizes=sizes,
        aspect_ratios=_RATIOS,
        concurrency=concurrency,
        monthly_videos=monthly_videos,
        usd_per_second=SORA_USD_PER_SECOND,
        lookup="key",
        free_outcomes=(Status.FAILED, Status.CANCELLED),
        content_credentials=True,
    )


SORA_PLANS: Final[Mapping[str, Capabilities]] = {
    "plus": _plan({"720p": 5, "480p": 10}, 2),
    "pro": _plan({"1080p": 20, "720p": 20}, 5),
    "api-tier-1": _plan({"1080p": 20, "720p": 20}, 10, 100),
    "api-tier-2": _plan({"1080p": 20, "720p": 20}, 25, 500),
    "api-tier-3": _plan({"1080p": 20, "720p": 20}, 50, 1000),
    "emulator": replace(
        _plan({"1080p": 20, "720p": 20, "480p": 20}, 10),
        optional_fields=_EXTENSIONS,
        max_references=None,
        can_remix=True,
        # The emulator signs nothing.
        content_credentials=False,
    ),
}
"""Capabilities of each plan: longest duration by resolution, generations at once, videos a month."""
