"""The Sora dialect: provider and responses. May import the shared modules of `providers`, never another vendor's."""

from prefect_video.providers.sora.provider import SoraProvider, open_provider

__all__ = [
    "SoraProvider",
    "open_provider",
]
