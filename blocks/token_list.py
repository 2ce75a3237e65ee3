"""Block of the tokens of `prefect-video serve`."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from prefect_video.blocks.project_urls import DOCUMENTATION_URL, LOGO_URL


class VideoApiTokens(Block):
    """The tokens by which other services request videos from `prefect-video serve`.

    Example:
        ```python
        from pathlib import Path

        from prefect_video.blocks import VideoApiTokens

        VideoApiTokens(tokens=Path("tokens.yaml").read_text()).save("production")
        ```
        The service then takes `PREFECT_VIDEO_SERVICE_TOKENS_BLOCK=video-api-tokens/production`.
    """

    _block_type_name = "Video API Tokens"
    _block_type_slug = "video-api-tokens"
    _description = "The hashed tokens, with scopes and monthly budgets, by which other services request videos."
    _logo_url = LOGO_URL  # type: ignore[assignment]
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]

    tokens: SecretStr = Field(
        title="Tokens", description="The entries in YAML, as `prefect-video tokens create NAME` prints them."
    )
