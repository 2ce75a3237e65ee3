"""Base of all provider credentials: secrets, limits, and the settings that an account decides."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, SecretStr

from prefect_video.providers import ACCOUNT_NAME, Provider, split_secrets, with_previous_key
from prefect_video.session import SessionOverrides


class ProviderCredentials(SessionOverrides, CredentialsBlock):
    """Key, address and limits of one account at one provider; the base of every provider's block."""

    # Blocks show their fields in this order; the settings of sessions, which the base brings, are rarely touched.
    _first_fields: ClassVar[tuple[str, ...]] = (
        "api_key",
        "endpoint",
        "base_url",
        "queue_url",
        "profile",
        "plan",
        "max_in_flight",
    )

    api_key: SecretStr | None = Field(default=None, title="API key", description="Else taken from the environment.")
    previous_api_key: SecretStr | None = Field(
        default=None,
        title="Previous API key",
        description="While the key is being replaced: what was sent with the former one is asked about with it too.",
    )
    account: str | None = Field(
        default=None,
        pattern=ACCOUNT_NAME,
        title="Account",
        description="Name that outlives the keys; else this block's own name. Blocks with one name share its limits.",
    )
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

    @classmethod
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Build the schema of the block, with the fields first that an operator fills in first."""
        schema = super().model_json_schema(*arguments, **options)
        fields = schema["properties"]
        first = [name for name in cls._first_fields if name in fields]
        own = [name for name in fields if name in cls.model_fields and name not in SessionOverrides.model_fields]
        schema["properties"] = {name: fields[name] for name in dict.fromkeys((*first, *own, *fields))}
        return schema

    @abstractmethod
    def get_client(self, *_args: Any, **_kwargs: Any) -> Provider:
        """Open the provider with these credentials.

        Raises:
            InvalidInput: The key or the address is missing or not usable.
        """

    def open(self) -> Provider:
        """Open the provider with these credentials, and with the previous key at hand where there is one.

        Raises:
            InvalidInput: A key, the address or the account's name is missing or not usable.
        """
        previous = self.model_copy(update={"api_key": self.previous_api_key}) if self.previous_api_key else None
        former = None if previous is None else previous.get_client()
        return with_previous_key(self.get_client(), former, name=self.account_name)

    @property
    def account_name(self) -> str | None:
        """Name of the account: as set, else that of the saved block; None for a block that was not saved."""
        return self.account or self._block_document_name

    def session_overrides(self) -> Mapping[str, Any]:
        """Return the settings of a session that these credentials decide; their limit is the account's too."""
        return {**super().session_overrides(), "account_slots": self.max_in_flight}

    def webhook_secrets(
        self, from_environment: str | None = None, *, variable: str = "the environment", standard: bool = False
    ) -> tuple[str, ...]:
        """Return the secrets that deliveries may be signed with, the current one first.

        Args:
            from_environment: Secrets of the environment, for a block without one of its own.
            variable: The variable that they are from, for the message.
            standard: Whether they are those of Standard Webhooks.

        Raises:
            InvalidInput: A secret cannot be one; the message names the field or the variable.
        """
        own = reveal(self.webhook_secret)
        named = "block field 'webhook_secret'" if own else variable
        current = split_secrets(own or from_environment, named=named, standard=standard)
        previous = reveal(self.previous_webhook_secret)
        return (*current, *split_secrets(previous, named="block field 'previous_webhook_secret'", standard=standard))


def environment_for(
    own_address: str | None, environment_address: str | None, default_address: str = ""
) -> Mapping[str, str]:
    """Return the environment to take keys and secrets from: an empty one for an address they are not meant for.

    Args:
        own_address: The address that the block names.
        environment_address: The address that the environment names.
        default_address: The provider's own, where it has one.
    """
    meant_for = environment_address or default_address or own_address
    is_meant = own_address is None or own_address.rstrip("/") == str(meant_for).rstrip("/")
    return os.environ if is_meant else {}


def missing_key_hint(variable: str, environment: Mapping[str, str]) -> str:
    """Return the end of a message that asks for a key: the variable to set, or why it is not used."""
    return f", or {variable}" if environment is os.environ else f": {variable} is not meant for its address"


def reveal(value: SecretStr | None) -> str | None:
    """Return the content of a secret field."""
    return value.get_secret_value() if value else None
