"""Accounts of the conformance suite: one line in `ACCOUNTS` for every provider and profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from prefect_video.providers.base import Provider
from prefect_video.providers.fal.provider import FalProvider
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.openai.provider import OpenAIProvider
from prefect_video.providers.openrouter.provider import OpenRouterProvider
from prefect_video.providers.replicate.provider import ReplicateProvider
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.shots import Shot

QUICK: Final = HttpSettings(backoff_seconds=0.005, backoff_limit_seconds=0.02)


class Place(Protocol):
    """Address of an emulator, in this process or in another."""

    @property
    def url(self) -> str:
        """Root of the API server."""

    @property
    def endpoint(self) -> str:
        """Base URL of the Sora dialect."""

    @property
    def key(self) -> str:
        """A valid key."""

    @property
    def webhook_secret(self) -> str:
        """The secret that signs its webhooks."""


Open = Callable[[Place, str, HttpSettings], Provider]
"""Function that opens the provider at an emulator, with a key (valid or not) and settings."""


@dataclass(frozen=True)
class TestAccount:
    """Account of the suite: how to open the provider, and its peculiarities.

    Attributes:
        name: Name of the test's parameter.
        opened: Opens the provider.
        delivers: Whether it sends webhooks.
        forgets_cancelled: Whether a cancelled generation is no longer known.
        refuses_by_policy: Whether a prompt against policy is rejected; else it is accepted and fails.
        policy_fault: Text in the fault of a prompt that failed by policy.
        has_quota: Whether a monthly quota or a credit can be used up.
        cancels_queued_only: Whether only a generation that has not started can be cancelled.
        tells_link_with_progress: Whether a completed job has a link of its own and its progress.
        an_id: Id of a generation in the dialect's form.
        shot: Fields of its shots that differ from the usual.
    """

    __test__ = False

    name: str
    opened: Open
    delivers: bool = True
    forgets_cancelled: bool = False
    refuses_by_policy: bool = False
    policy_fault: str = "policy"
    has_quota: bool = True
    cancels_queued_only: bool = False
    tells_link_with_progress: bool = False
    an_id: str = "gen_1"
    shot: dict[str, Any] = field(default_factory=dict)

    def open(self, emulator: Place, *, key: str | None = None, settings: HttpSettings = QUICK) -> Provider:
        """Open the provider, with polls at the emulator's speed."""
        provider = self.opened(emulator, key or emulator.key, settings)
        provider.capabilities = replace(provider.capabilities, seconds_per_video_second=(0.0, 0.05))
        return provider

    def holds_at(self, emulator: Place) -> bool:
        """Return whether an unanswered submit is held, as the provider has no means to find its generation."""
        return self.open(emulator).capabilities.lookup == "none"

    def a_shot(self, **changes: Any) -> Shot:
        """Build a short shot that this provider can make."""
        usual = {"id": "roof", "prompt": "a cat on a roof", "duration": 1, "resolution": "480p"}
        return Shot(**{**usual, **self.shot, **changes})


def _sora(at: Place, key: str, http: HttpSettings) -> Provider:
    secrets = (at.webhook_secret,)
    return SoraProvider(api_key=key, endpoint=at.endpoint, plan="emulator", webhook_secrets=secrets, settings=http)


def openai(profile: str, mount: str = "") -> Open:
    """Return the opener of a profile, at the emulator's routes for it or at others of the same kind."""
    path = f"/profiles/{mount or profile}/v1" if mount or profile != "generic" else "/v1"

    def opened(at: Place, key: str, http: HttpSettings) -> Provider:
        secrets = ("whsec_b2xk", at.webhook_secret)
        return OpenAIProvider(
            api_key=key, base_url=at.url + path, profile=profile, webhook_secrets=secrets, settings=http
        )

    return opened


def openrouter(model: str) -> Open:
    """Return the opener of OpenRouter with a model of the emulator's list under the name that shots use."""

    def opened(at: Place, key: str, http: HttpSettings) -> Provider:
        return OpenRouterProvider(
            api_key=key,
            base_url=f"{at.url}/api/v1",
            webhook_secrets=(at.webhook_secret,),
            models={"sora-2": model},
            settings=http,
        )

    return opened


def _fal(at: Place, key: str, http: HttpSettings) -> Provider:
    return FalProvider(
        api_key=key,
        queue_url=f"{at.url}/fal",
        keys_url=f"{at.url}/fal/.well-known/jwks.json",
        models={"sora-2": "emulator/video/text-to-video"},
        settings=http,
    )


def replicate(model: str) -> Open:
    """Return the opener of Replicate with an official model, or with a version of one."""

    def opened(at: Place, key: str, http: HttpSettings) -> Provider:
        return ReplicateProvider(
            api_key=key,
            base_url=f"{at.url}/replicate/v1",
            webhook_secrets=(at.webhook_secret,),
            models={"sora-2": model},
            settings=http,
        )

    return opened


ACCOUNTS: Final = (
    TestAccount("sora", _sora, refuses_by_policy=True),
    TestAccount("openai", openai("generic")),
    TestAccount("openai-redirecting", openai("generic", "generic_redirecting")),
    TestAccount("vllm_omni", openai("vllm_omni"), delivers=False, has_quota=False, forgets_cancelled=True),
    TestAccount("sglang", openai("sglang"), delivers=False, has_quota=False),
    TestAccount(
        "sglang-cloud",
        openai("sglang", "sglang_cloud"),
        delivers=False,
        has_quota=False,
        tells_link_with_progress=True,
    ),
    TestAccount("trtllm", openai("trtllm"), delivers=False, has_quota=False, forgets_cancelled=True),
    TestAccount("litellm", openai("litellm"), delivers=False),
    TestAccount("openrouter", openrouter("emulator/video"), refuses_by_policy=True),
    TestAccount("openrouter-unsigned", openrouter("emulator/video-unsigned"), refuses_by_policy=True),
    TestAccount("fal", _fal, cancels_queued_only=True, an_id="emulator/video/requests/gen_1"),
    TestAccount("replicate", replicate("emulator/video"), policy_fault="E005"),
    TestAccount("replicate-version", replicate("emulator/video:9c49fe41d6b2a0e62199dc96bee4a9dd"), policy_fault="E005"),
)


def account_named(name: str) -> TestAccount:
    """Return the account with a name."""
    return next(account for account in ACCOUNTS if account.name == name)
