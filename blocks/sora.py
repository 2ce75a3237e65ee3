"""Credentials of providers of the Sora dialect."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import Field

from prefect_video.blocks.base import ProviderCredentials, environment_for, reveal
from prefect_video.blocks.project_urls import DOCUMENTATION_URL, LOGO_URL
from prefect_video.errors import InvalidInput
from prefect_video.providers.sora import SoraProvider

Plan = Literal["plus", "pro", "api-tier-1", "api-tier-2", "api-tier-3", "emulator"]


class SoraCredentials(ProviderCredentials):
    """Key, address and limits of one account at a provider of the Sora dialect.

    What is left out is taken from `SORA_API_KEY`, `SORA_API_ENDPOINT` and `SORA_WEBHOOK_SECRET`.

    Example:
        ```python
        from prefect_video.blocks import SoraCredentials

        SoraCredentials(api_key="sk-…", endpoint="https://host/v1/sora", plan="pro").save("production")
        ```
        Flows then take `provider="sora-credentials/production"`.
    """

    _block_type_name = "Sora Credentials"
    _block_type_slug = "sora-credentials"
    _description = "Key, address, plan and limits of one account at a text-to-video provider of the Sora dialect."
    _logo_url = LOGO_URL  # type: ignore[assignment]
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]

    endpoint: str | None = Field(
        default=None,
        title="Endpoint",
        description="Base URL; else SORA_API_ENDPOINT.",
        examples=["https://host/v1/sora"],
    )
    plan: Plan = Field(
        default="api-tier-1", title="Plan", description="What durations and sizes the account may ask for."
    )

    def get_client(self, *_args: Any, **_kwargs: Any) -> SoraProvider:
        """Open the provider with these credentials.

        Raises:
            InvalidInput: The key or the endpoint is missing or not usable.
        """
        environment = environment_for(self.endpoint, os.environ.get("SORA_API_ENDPOINT"))
        key = reveal(self.api_key) or environment.get("SORA_API_KEY")
        endpoint = self.endpoint or os.environ.get("SORA_API_ENDPOINT")
        if not key or not endpoint:
            raise InvalidInput(
                "sora-credentials: set api_key and endpoint on the block, or SORA_API_KEY and SORA_API_ENDPOINT"
            )
        return SoraProvider(
            api_key=key,
            endpoint=endpoint,
            plan=self.plan,
            webhook_secrets=self.webhook_secrets(
                environment.get("SORA_WEBHOOK_SECRET"), variable="SORA_WEBHOOK_SECRET"
            ),
            usd_per_second=self.usd_per_second,
        )
