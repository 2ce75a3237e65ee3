"""The Sora dialect."""

from prefect_video.providers.sora.provider import SoraProvider

__all__ = [
    "SoraProvider",
]
