"""Replicate: provider and responses. May import the shared modules of `providers`, never another vendor's."""

from prefect_video.providers.replicate.provider import (
    BASE_URL,
    SHORTEST_DEADLINE_SECONDS,
    ReplicateProvider,
    base_url_from,
    open_provider,
)

__all__ = [
    "BASE_URL",
    "SHORTEST_DEADLINE_SECONDS",
    "ReplicateProvider",
    "base_url_from",
    "open_provider",
]
