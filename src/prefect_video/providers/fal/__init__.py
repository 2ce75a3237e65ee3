"""fal: provider, responses and webhooks. May import the shared modules of `providers`, never another vendor's."""

from prefect_video.providers.fal.provider import QUEUE_URL, FalProvider, open_provider
from prefect_video.providers.fal.webhooks import KEYS_URL

__all__ = [
    "KEYS_URL",
    "QUEUE_URL",
    "FalProvider",
    "open_provider",
]
