"""Source of the tokens: the environment, a file, a block."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Sequence
from typing import Any, Final

from prefect_video.errors import InvalidInput
from prefect_video.service.api_tokens import ApiToken, ApiTokens, default_token, parse_tokens
from prefect_video.service.settings import ServiceSettings

logger = logging.getLogger(__name__)

_SLUG: Final = "video-api-tokens/"


async def open_tokens(settings: ServiceSettings) -> ApiTokens:
    """Read the tokens that the settings name.

    Raises:
        InvalidInput: A token, the file or the block cannot be used.
    """
    fixed: tuple[ApiToken, ...] = ()
    if settings.api_token is not None:
        fixed = (default_token(settings.api_token, settings.callback_secret),)
    block: tuple[ApiToken, ...] = ()
    if settings.tokens_block is not None:
        block = await _load_block(settings.tokens_block)
        _refuse_reserved(block, fixed)
    try:
        return ApiTokens(fixed, settings.tokens_file, block)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"tokens_file: cannot read {settings.tokens_file}: {error}") from error


class _NoBlock(InvalidInput):
    """There is no such block."""


async def watch_block(tokens: ApiTokens, name: str, interval_seconds: float) -> None:
    """Read a block of tokens again and again, until cancelled.

    One that cannot be used leaves the tokens as they were; one that is gone has none: to delete it is to revoke them.

    Args:
        tokens: The tokens of the service.
        name: Name of the block.
        interval_seconds: Seconds between two reads.
    """
    reported = ""
    while True:
        await asyncio.sleep(interval_seconds)
        try:
            tokens.block = await _read_changed(tokens, name)
            reported = ""
        except Exception as error:  # noqa: BLE001 -- Prefect's server may be away: the next read tries again
            message = f"the tokens stay as they were: {error}"
            if isinstance(error, _NoBlock):
                tokens.block = ()
                message = f"{error}; its tokens do not count any more"
            if message != reported:
                logger.error("%s", message)
            reported = message


async def _read_changed(tokens: ApiTokens, name: str) -> tuple[ApiToken, ...]:
    block = await _load_block(name)
    _refuse_reserved(block, [token for token in tokens.all() if token not in tokens.block])
    return block


async def _load_block(name: str) -> tuple[ApiToken, ...]:
    """Read the tokens of a block as it is now.

    Raises:
        InvalidInput: There is no such block, or its content cannot be used.
    """
    # Prefect takes seconds to import and is not needed without blocks.
    blocks, exceptions = await asyncio.to_thread(_import_prefect)
    name = name.removeprefix(_SLUG)
    try:
        block = await blocks.VideoApiTokens.aload(name)
    except ValueError as error:
        kind = _NoBlock if isinstance(error.__cause__, exceptions.ObjectNotFound) else InvalidInput
        raise kind(f"tokens_block: {error}") from error
    return parse_tokens(block.tokens.get_secret_value(), f"{_SLUG}{name}")


def _import_prefect() -> tuple[Any, Any]:
    return importlib.import_module("prefect_video.blocks"), importlib.import_module("prefect.exceptions")


def _refuse_reserved(block: Sequence[ApiToken], others: Sequence[ApiToken]) -> None:
    taken = {token.name for token in others}
    if twice := [token.name for token in block if token.name in taken]:
        raise InvalidInput(f"tokens_block: the name {twice[0]!r} belongs to another token of this service")
