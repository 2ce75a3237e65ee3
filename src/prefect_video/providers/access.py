"""Access check: a free request that shows whether endpoint and key are right, before a session claims anything."""

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

_TIMEOUT_SECONDS: Final = 10.0
_RETRY_DELAY_SECONDS: Final = 0.5
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
"""Environment variables of each provider's key and address, for messages where no block configures them."""
KEY_VARIABLES: Final[Mapping[str, str]] = {name: key for name, (key, _) in _VARIABLES.items()}
"""Environment variable of each provider's key."""


class AccessCheck:
    """Check of one account in one session, made once by the first claim.

    Args:
        provider: The provider that is checked.
        credentials: Source of its credentials: a provider's name, `env`, or `block-type/block-name`.

    Attributes:
        is_done: Whether the check was made.
    """

    def __init__(self, provider: Provider, credentials: str) -> None:
        self._provider = provider
        self._credentials = credentials
        self._lock = asyncio.Lock()
        self.is_done = False

    async def require_access(self) -> None:
        """Make the check unless it was made; a provider that is unavailable for now passes with a warning.

        Raises:
            AuthenticationFailed: The key was rejected; the message names the setting to correct.
            RequestRejected: The server at the address is not this provider; the message names the setting to correct.
        """
        async with self._lock:
            if self.is_done:
                return
            await self._check()
            self.is_done = True

    async def _check(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self._send_check()
        except AuthenticationFailed as error:
            raise AuthenticationFailed(self._build_message(error), provider=error.provider) from error
        except (ProviderUnavailable, RateLimited, TimeoutError) as error:
            logger.warning("%s: endpoint and key could not be checked for now: %s", self._provider.name, error)
        except (RequestRejected, InvalidResponse) as error:
            if not error.follows_contract:
                raise RequestRejected(self._build_message(error), provider=error.provider) from error
            logger.info("%s answers and has no request to check the key with: %s", self._provider.name, error)
        except ProviderError as error:
            logger.warning("%s: endpoint and key could not be checked: %s", self._provider.name, error)

    async def _send_check(self) -> None:
        """Send the request, and once more where a gateway responded instead of the provider, as such faults pass."""
        try:
            await self._provider.check_access()
        except (RequestRejected, InvalidResponse) as error:
            if error.follows_contract:
                raise
            await asyncio.sleep(_RETRY_DELAY_SECONDS)
            await self._provider.check_access()

    def _build_message(self, error: ProviderError) -> str:
        key, address = _VARIABLES.get(self._provider.name, ("the API key", "the address"))
        if "/" in self._credentials:
            key, address = f"the key in block {self._credentials}", f"the address in block {self._credentials}"
        # An error of the contract comes from the right server, so that the key is wrong; any other may come from
        # another server, or from a proxy before the right one.
        wrong_setting = key if error.follows_contract else f"{address} (or {key})"
        return (
            f"{error.message.rstrip('. ')}. That was the answer of {self._provider.account.base_url} to a free read"
            f" before anything was sent: correct {wrong_setting} and start again"
        )
