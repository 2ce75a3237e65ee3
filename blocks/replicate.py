"""Credentials of Replicate."""

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
from prefect_video.providers.replicate import (
    BASE_URL,
    SHORTEST_DEADLINE_SECONDS,
    ReplicateProvider,
    base_url_from,
)


class ReplicateCredentials(ProviderCredentials):
    """Token and limits of one account at Replicate.

    What is left out is taken from `REPLICATE_API_TOKEN`, `REPLICATE_BASE_URL` (without the version) and
    `REPLICATE_WEBHOOK_SECRET`; token and secret only for the address that they are meant for.

    Example:
        ```python
        from prefect_video.blocks import ReplicateCredentials

        ReplicateCredentials(api_key="r8_…", models={"sora-2": "google/veo-3.1"}).save("production")
        ```
        Flows then take `provider="replicate-credentials/production"`.
    """

    _block_type_name = "Replicate Credentials"
    _block_type_slug = "replicate-credentials"
    _description = "Token, limits and model names of one account at Replicate."
    _logo_url = LOGO_URL  # type: ignore[assignment]
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]

    base_url: str | None = Field(
        default=None, title="Address", description=f"Of the API with its version; else {BASE_URL}."
    )
    models: dict[str, str] = Field(
        default_factory=dict, title="Models", description="Names in project files and the models they mean here."
    )
    cancel_after_seconds: int | None = Field(
        default=None,
        ge=SHORTEST_DEADLINE_SECONDS,
        title="Cancel after",
        description="Has Replicate cancel what is not done by then; what has not started is then free.",
    )

    def get_client(self, *_args: Any, **_kwargs: Any) -> ReplicateProvider:
        """Open the provider with these credentials.

        Raises:
            InvalidInput: The token is missing, or token or address are not usable.
        """
        environment_address = base_url_from(os.environ)
        environment = environment_for(self.base_url, environment_address)
        key = reveal(self.api_key) or environment.get("REPLICATE_API_TOKEN")
        if not key:
            alternative = missing_key_hint("REPLICATE_API_TOKEN", environment)
            raise InvalidInput(f"replicate-credentials: set api_key on the block{alternative}")
        return ReplicateProvider(
            api_key=key,
            base_url=self.base_url or environment_address,
            webhook_secrets=self.webhook_secrets(
                environment.get("REPLICATE_WEBHOOK_SECRET"), variable="REPLICATE_WEBHOOK_SECRET", standard=True
            ),
            models=self.models,
            usd_per_second=self.usd_per_second,
            cancel_after_seconds=self.cancel_after_seconds,
        )
