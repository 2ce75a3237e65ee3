"""What the credentials of every provider have in common: secrets, limits, and what to do when in doubt."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, SecretStr

from prefect_video.providers.base import Provider

LOGO_URL = "https://raw.githubusercontent.com/PrefectHQ/prefect/main/docs/logos/prefect-logo-mark.png"


class ProviderCredentials(CredentialsBlock):
    """Key, address and limits of one account at one provider; the base of every provider's block."""

    api_key: SecretStr | None = Field(default=None, title="API key", description="Else taken from the environment.")
    webhook_secret: SecretStr | None = Field(
        default=None, title="Webhook secret", description="Else taken from the environment."
    )
    previous_webhook_secret: SecretStr | None = Field(
        default=None, title="Previous webhook secret", description="Still accepted while the secret is being rotated."
    )
    environment: Literal["development", "staging", "production"] = Field(
        default="production", title="Environment", description="Stored videos are shared within one environment only."
    )
    max_in_flight: int | None = Field(
        default=None, ge=1, title="At once", description="Unfinished generations; else what the plan allows."
    )
    concurrency_limit: str | None = Field(
        default=None,
        title="Prefect concurrency limit",
        description="Name of a global concurrency limit that is held while the provider is at work;"
        " `prefect-video doctor --fix` creates it.",
    )
    submissions_per_minute: float | None = Field(
        default=None, gt=0, title="Submissions a minute", description="Evenly spaced; no limit when empty."
    )
    usd_per_second: Decimal | None = Field(
        default=None,
        ge=0,
        title="USD per second of video",
        description="Else the price table; 0 only where a video really costs nothing.",
    )
    on_unknown: Literal["hold", "resubmit"] = Field(
        default="hold",
        title="Unanswered submits",
        description="When the provider cannot tell whether it accepted: hold for a human, or send again.",
    )
    on_lost: Literal["hold", "resubmit"] = Field(
        default="hold",
        title="Lost generations",
        description="When the provider no longer knows a paid generation: hold for a human, or buy it again.",
    )

    deadline_seconds: float | None = Field(
        default=None, gt=0, title="Deadline", description="Seconds after its submit that a generation is waited for."
    )
    on_deadline: Literal["cancel", "leave", "hold"] | None = Field(
        default=None,
        title="At the deadline",
        description="Cancel the generation, leave it running for `collect`, or hold it for a human.",
    )
    breaker_failures: int | None = Field(
        default=None, ge=1, title="Breaker failures", description="Troubles in a row that hold submits back; else 5."
    )
    breaker_seconds: float | None = Field(
        default=None, gt=0, title="Breaker seconds", description="Until one submit may try again; else 300."
    )
    on_open: Literal["wait", "fail"] | None = Field(
        default=None, title="While the breaker is open", description="Submits wait, or fail at once."
    )

    @abstractmethod
    def get_client(self, *_args: Any, **_kwargs: Any) -> Provider:
        """The provider that these credentials open.

        Raises:
            InvalidInput: The key or the address is missing or not usable.
        """

    def studio_settings(self) -> dict[str, Any]:
        """The settings of a studio that these credentials decide."""
        return {
            "environment": self.environment,
            "max_in_flight": self.max_in_flight,
            "account_slots": self.max_in_flight,
            "concurrency_limit": self.concurrency_limit,
            "submissions_per_minute": self.submissions_per_minute,
            "on_unknown": self.on_unknown,
            "on_lost": self.on_lost,
            "deadline_seconds": self.deadline_seconds,
            "on_deadline": self.on_deadline,
            "breaker_failures": self.breaker_failures,
            "breaker_seconds": self.breaker_seconds,
            "on_open": self.on_open,
        }

    def webhook_secrets(self, from_environment: str | None = None) -> tuple[str, ...]:
        """The secrets that deliveries may be signed with, the current one first."""
        current = secret_text(self.webhook_secret) or from_environment or ""
        return tuple(filter(None, (*current.split(","), secret_text(self.previous_webhook_secret))))


def surroundings(
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


def or_in_environment(variable: str, around: Mapping[str, str]) -> str:
    """How a message goes on that asks for a key."""
    return f", or {variable}" if around is os.environ else f": {variable} is not meant for its address"


def secret_text(value: SecretStr | None) -> str | None:
    """What a secret field holds."""
    return value.get_secret_value() if value else None
