"""Source of the tokens: the environment, a file, a block."""

from __future__ import annotations

import asyncio
import importlib

from prefect_video.errors import InvalidInput
from prefect_video.service.api_tokens import ApiToken, ApiTokens, default_token, parse_tokens
from prefect_video.service.settings import ServiceSettings


async def open_tokens(settings: ServiceSettings) -> ApiTokens:
    """Read the tokens that the settings name.

    Raises:
        InvalidInput: A token, the file or the block cannot be used.
    """
    fixed: list[ApiToken] = []
    if settings.api_token is not None:
        fixed.append(default_token(settings.api_token, settings.callback_secret))
    if settings.tokens_block is not None:
        # Prefect takes seconds to import and is not needed without blocks.
        blocks = await asyncio.to_thread(importlib.import_module, "prefect_video.blocks")
        name = settings.tokens_block.removeprefix("video-api-tokens/")
        try:
            block = await blocks.VideoApiTokens.aload(name)
        except ValueError as error:
            raise InvalidInput(f"tokens_block: {error}") from error
        fixed += parse_tokens(block.tokens.get_secret_value(), f"video-api-tokens/{name}")
    names = [token.name for token in fixed]
    if len(set(names)) < len(names):
        raise InvalidInput(f"tokens_block: the name {names[0]!r} belongs to PREFECT_VIDEO_SERVICE_API_TOKEN")
    try:
        return ApiTokens(tuple(fixed), settings.tokens_file)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"tokens_file: cannot read {settings.tokens_file}: {error}") from error
