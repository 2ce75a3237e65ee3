"""Credentials of OpenRouter."""

from __future__ import annotations

import os
from typing import Any

from pydantic import Field

from prefect_video.blocks.base import (
    ProviderCredentials,
    environment_for,
    missing_key_hint,
    reveal,
)
from prefect_video.blocks.project_urls import DOCUMENTATION_URL, LOGO_URL
from prefect_video.errors import InvalidInput
from prefect_video.providers.openrouter import BASE_URL, OpenRouterProvider


class OpenRouterCredentials(ProviderCredentials):
    """Key and limits of one account at OpenRouter.

    What is left out is taken from `OPENROUTER_API_KEY`, `OPENROUTER_BASE_URL` and `OPENROUTER_WEBHOOK_SECRET`; key and
    secret only for the address that they are meant for.

    Example:
        ```python
        from prefect_video.blocks import OpenRouterCredentials

        OpenRouterCredentials(api_key="sk-or-…", models={"sora-2": "google/veo-3.1"}).save("production")
        ```
        Flows then take `provider="openrouter-credentials/production"`.
    """

    _block_type_name = "OpenRouter Credentials"
    _block_type_slug = "openrouter-credentials"
    _description = "Key, limits and model names of one account at OpenRouter."
    _logo_url = LOGO_URL  # type: ignore[assignment]
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]

    base_url: str | None = Field(default=None, title="Address", description=f"Of the API; else {BASE_URL}.")
    models: dict[str, str] = Field(
        default_factory=dict, title="Models", description="Names in project files and the models they mean here."
    )

    def get_client(self, *_args: Any, **_kwargs: Any) -> OpenRouterProvider:
        """Open the provider with these credentials.

        Raises:
            InvalidInput: The key is missing, or key or address are not usable.
        """
        environment = environment_for(self.base_url, os.environ.get("OPENROUTER_BASE_URL"), BASE_URL)
        key = reveal(self.api_key) or environment.get("OPENROUTER_API_KEY")
        if not key:
            alternative = missing_key_hint("OPENROUTER_API_KEY", environment)
            raise InvalidInput(f"openrouter-credentials: set api_key on the block{alternative}")
        return OpenRouterProvider(
            api_key=key,
            base_url=self.base_url or os.environ.get("OPENROUTER_BASE_URL") or BASE_URL,
            webhook_secrets=self.webhook_secrets(
                environment.get("OPENROUTER_WEBHOOK_SECRET"), variable="OPENROUTER_WEBHOOK_SECRET"
            ),
            models=self.models,
            usd_per_second=self.usd_per_second,
        )
