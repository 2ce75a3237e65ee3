"""OpenRouter."""

from prefect_video.providers.openrouter.provider import BASE_URL, OpenRouterProvider

__all__ = [
    "BASE_URL",
    "OpenRouterProvider",
]
