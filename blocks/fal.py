"""Credentials of fal."""

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
from prefect_video.providers.fal import KEYS_URL, QUEUE_URL, FalProvider


class FalCredentials(ProviderCredentials):
    """Key and limits of one account at fal; its webhooks are signed with keys that fal publishes.

    What is left out is taken from `FAL_KEY`, `FAL_QUEUE_URL` and `FAL_KEYS_URL`; the key only for the address that it
    is meant for.

    Example:
        ```python
        from prefect_video.blocks import FalCredentials

        FalCredentials(api_key="…", models={"sora-2": "fal-ai/veo3/fast"}).save("production")
        ```
        Flows then take `provider="fal-credentials/production"`.
    """

    _block_type_name = "fal Credentials"
    _block_type_slug = "fal-credentials"
    _description = "Key, limits and model names of one account at fal."
    _logo_url = LOGO_URL  # type: ignore[assignment]
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]

    queue_url: str | None = Field(default=None, title="Queue", description=f"Address of the queue; else {QUEUE_URL}.")
    keys_url: str | None = Field(
        default=None, title="Webhook keys", description=f"Where fal publishes its keys; else {KEYS_URL}."
    )
    models: dict[str, str] = Field(
        default_factory=dict, title="Models", description="Names in project files and the models they mean here."
    )

    def get_client(self, *_args: Any, **_kwargs: Any) -> FalProvider:
        """Open the provider with these credentials.

        Raises:
            InvalidInput: The key is missing, or key or an address are not usable.
        """
        environment = environment_for(self.queue_url, os.environ.get("FAL_QUEUE_URL"), QUEUE_URL)
        key = reveal(self.api_key) or environment.get("FAL_KEY")
        if not key:
            raise InvalidInput(f"fal-credentials: set api_key on the block{missing_key_hint('FAL_KEY', environment)}")
        return FalProvider(
            api_key=key,
            queue_url=self.queue_url or os.environ.get("FAL_QUEUE_URL") or QUEUE_URL,
            keys_url=self.keys_url or os.environ.get("FAL_KEYS_URL") or KEYS_URL,
            models=self.models,
            usd_per_second=self.usd_per_second,
        )
