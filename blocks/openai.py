"""Credentials of servers that speak the OpenAI Videos dialect."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import Field

from prefect_video.blocks.base import ProviderCredentials, reveal
from prefect_video.blocks.project_urls import DOCUMENTATION_URL, LOGO_URL
from prefect_video.providers.openai import OpenAIProvider


class OpenAICredentials(ProviderCredentials):
    """Key, address and profile of one server of the OpenAI Videos dialect.

    With no `base_url` it is OpenAI itself, and what is left out is taken from `OPENAI_API_KEY`, `OPENAI_BASE_URL`
    and `OPENAI_WEBHOOK_SECRET`. With a `base_url` nothing is taken from the environment: a key that is meant for
    OpenAI goes to no other server.

    Example:
        ```python
        from prefect_video.blocks import OpenAICredentials

        OpenAICredentials(base_url="http://gpu-1:8000/v1", profile="vllm_omni").save("gpu-1")
        ```
        Flows then take `provider="openai-credentials/gpu-1"`.
    """

    _block_type_name = "OpenAI Credentials"
    _block_type_slug = "openai-credentials"
    _description = "Key, address, profile and limits of a server that speaks the OpenAI Videos dialect."
    _logo_url = LOGO_URL  # type: ignore[assignment]
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]

    base_url: str | None = Field(
        default=None,
        title="Base URL",
        description="With its version; else OPENAI_BASE_URL, else OpenAI's own.",
        examples=["http://gpu-1:8000/v1"],
    )
    profile: Literal["generic", "vllm_omni", "sglang", "trtllm", "litellm"] = Field(
        default="generic", title="Profile", description="Which server it is; `generic` keeps to OpenAI's document."
    )

    models: dict[str, str] = Field(
        default_factory=dict, title="Models", description="Names in project files and the models they mean here."
    )

    def get_client(self, *_args: Any, **_kwargs: Any) -> OpenAIProvider:
        """Open the provider with these credentials.

        Raises:
            InvalidInput: The key or the address is missing or not usable.
        """
        surroundings = {} if self.base_url else os.environ
        return OpenAIProvider(
            api_key=reveal(self.api_key) or surroundings.get("OPENAI_API_KEY"),
            base_url=self.base_url or surroundings.get("OPENAI_BASE_URL"),
            profile=self.profile,
            webhook_secrets=self.webhook_secrets(
                surroundings.get("OPENAI_WEBHOOK_SECRET"), variable="OPENAI_WEBHOOK_SECRET", standard=True
            ),
            models=self.models,
            usd_per_second=self.usd_per_second,
        )
