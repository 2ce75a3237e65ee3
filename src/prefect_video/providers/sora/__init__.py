"""The Sora dialect: provider and responses. May import the shared modules of `providers`, never another vendor's."""

from prefect_video.providers.sora.provider import SoraProvider

__all__ = [
    "SoraProvider",
]
