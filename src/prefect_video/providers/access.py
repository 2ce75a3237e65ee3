"""A session's first act: a free read that shows whether endpoint and key are right, before anything is claimed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from prefect_video.errors import (
    AuthenticationFailed,
    InvalidResponse,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
)
from prefect_video.providers.base import Provider

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS: Final = 10.0
_LAPSE_SECONDS: Final = 0.5
_VARIABLES: Final[Mapping[str, tuple[str, str]]] = {
    "sora": ("SORA_API_KEY", "SORA_API_ENDPOINT"),
    "emulator": ("PREFECT_VIDEO_EMULATOR_KEY", "PREFECT_VIDEO_EMULATOR_ENDPOINT"),
    "openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "vllm_omni": ("VLLM_OMNI_API_KEY", "VLLM_OMNI_BASE_URL"),
    "sglang": ("SGLANG_API_KEY", "SGLANG_BASE_URL"),
    "trtllm": ("TRTLLM_API_KEY", "TRTLLM_BASE_URL"),
    "litellm": ("LITELLM_API_KEY", "LITELLM_BASE_URL"),
    "openrouter": ("OPENROUTER_API_KEY", "OPENROUTER_BASE_URL"),
    "fal": ("FAL_KEY", "FAL_QUEUE_URL"),
    "replicate": ("REPLICATE_API_TOKEN", "REPLICATE_BASE_URL"),
}
"""Where each provider's key and address are set when no block names them."""


class AccessCheck:
    """The check of one account in one session: made once, by whichever claim comes first.

    Args:
        provider: Who is asked.
        credentials: How its credentials were found: a provider's name, `env`, or `block-type/block-name`.
    """

    def __init__(self, provider: Provider, credentials: str) -> None:
        self._provider = provider
        self._credentials = credentials
        self._lock = asyncio.Lock()
        self.is_done = False

    async def demand(self) -> None:
        """Makes the check unless it was made; a provider that gives no answer for now is given the benefit of doubt.

        Raises:
            AuthenticationFailed: The key was refused; the message names the setting to correct.
            RequestRejected: What answers at the address is not this provider; likewise.
        """
        async with self._lock:
            if self.is_done:
                return
            await self._check()
            self.is_done = True

    async def _check(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._read()
        except AuthenticationFailed as error:
            raise AuthenticationFailed(self._refused(error), provider=error.provider) from error
        except (ProviderUnavailable, RateLimited, TimeoutError) as error:
            logger.warning("%s: endpoint and key could not be checked for now: %s", self._provider.name, error)
        except (RequestRejected, InvalidResponse) as error:
            if not error.follows_contract:
                raise RequestRejected(self._refused(error), provider=error.provider) from error
            logger.info("%s answers and has no list to check the key by: %s", self._provider.name, error)
        except ProviderError as error:
            logger.warning("%s: endpoint and key could not be checked: %s", self._provider.name, error)

    async def _read(self) -> None:
        """Reads, and once more where something else than the provider has answered: a gateway's lapse passes."""
        try:
            await self._provider.check_access()
        except (RequestRejected, InvalidResponse) as error:
            if error.follows_contract:
                raise
            await asyncio.sleep(_LAPSE_SECONDS)
            await self._provider.check_access()

    def _refused(self, error: ProviderError) -> str:
        key, address = _VARIABLES.get(self._provider.name, ("the API key", "the address"))
        if "/" in self._credentials:
            key, address = f"the key in block {self._credentials}", f"the address in block {self._credentials}"
        # In its own words it is the right server; else it may be another one, or a guard before it.
        wrong = key if error.follows_contract else f"{address} (or {key})"
        return (
            f"{error.message.rstrip('. ')}. That was the answer of {self._provider.account.base_url} to a free read"
            f" before anything was sent: correct {wrong} and start again"
        )
