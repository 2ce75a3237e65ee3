"""What the credentials of every provider have in common: secrets, limits, and what to do when in doubt."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, SecretStr

from prefect_video.providers import Provider
from prefect_video.session import SessionOverrides

LOGO_URL = "https://raw.githubusercontent.com/PrefectHQ/prefect/main/docs/logos/prefect-logo-mark.png"


class ProviderCredentials(SessionOverrides, CredentialsBlock):
    """Key, address and limits of one account at one provider; the base of every provider's block."""

    api_key: SecretStr | None = Field(default=None, title="API key", description="Else taken from the environment.")
    webhook_secret: SecretStr | None = Field(
        default=None, title="Webhook secret", description="Else taken from the environment."
    )
    previous_webhook_secret: SecretStr | None = Field(
        default=None, title="Previous webhook secret", description="Still accepted while the secret is being rotated."
    )
    usd_per_second: Decimal | None = Field(
        default=None,
        ge=0,
        title="USD per second of video",
        description="Else the price table; 0 only where a video really costs nothing.",
    )

    @abstractmethod
    def get_client(self, *_args: Any, **_kwargs: Any) -> Provider:
        """The provider that these credentials open.

        Raises:
            InvalidInput: The key or the address is missing or not usable.
        """

    def session_overrides(self) -> Mapping[str, Any]:
        """Return the settings of a session that these credentials decide; their limit is the account's too."""
        return {**super().session_overrides(), "account_slots": self.max_in_flight}

    def webhook_secrets(self, from_environment: str | None = None) -> tuple[str, ...]:
        """The secrets that deliveries may be signed with, the current one first."""
        current = reveal(self.webhook_secret) or from_environment or ""
        return tuple(filter(None, (*current.split(","), reveal(self.previous_webhook_secret))))


def environment_for(
    own_address: str | None, environment_address: str | None, default_address: str = ""
) -> Mapping[str, str]:
    """The environment that keys and secrets may be taken from: none for an address that they are not meant for.

    Args:
        own_address: What the block names.
        environment_address: What the environment names.
        default_address: The provider's own, where it has one.
    """
    meant_for = environment_address or default_address or own_address
    is_meant = own_address is None or own_address.rstrip("/") == str(meant_for).rstrip("/")
    return os.environ if is_meant else {}


def missing_key_hint(variable: str, around: Mapping[str, str]) -> str:
    """How a message goes on that asks for a key."""
    return f", or {variable}" if around is os.environ else f": {variable} is not meant for its address"


def reveal(value: SecretStr | None) -> str | None:
    """What a secret field holds."""
    return value.get_secret_value() if value else None
