"""OpenRouter: provider and responses. May import the shared modules of `providers`, never another vendor's."""

from prefect_video.providers.openrouter.provider import BASE_URL, OpenRouterProvider, open_provider

__all__ = [
    "BASE_URL",
    "OpenRouterProvider",
    "open_provider",
]
