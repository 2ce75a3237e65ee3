"""Providers: services that generate videos, behind one contract.

`Provider` is the contract, `HttpProvider` the base of those that speak HTTP, `open_provider` opens one by name. Each
vendor has a folder with the same file names inside: `provider` sends requests, `responses` reads what comes back. May
import `downloads` and the records (`errors`, `shots`, `generations`).
"""

from prefect_video.providers.access import AccessCheck
from prefect_video.providers.base import ACCOUNT_NAME, Account, Capabilities, Provider
from prefect_video.providers.capabilities import adapt
from prefect_video.providers.duration_advice import ADVISED_SECONDS, duration_hints, optimize_duration
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.http_bodies import check_depth
from prefect_video.providers.http_provider import HttpProvider
from prefect_video.providers.key_rotation import RotatedProvider, with_key, with_previous_key
from prefect_video.providers.matching import KEY_FIELD, Match, match_prompt
from prefect_video.providers.moderation import is_moderation
from prefect_video.providers.pages import UnreadableItem
from prefect_video.providers.pricing import SORA_USD_PER_SECOND, usd_for
from prefect_video.providers.registry import default_provider, open_provider
from prefect_video.providers.search import UnclaimedFound, echoes_key
from prefect_video.providers.webhook_signatures import split_secrets

__all__ = [
    "ACCOUNT_NAME",
    "ADVISED_SECONDS",
    "KEY_FIELD",
    "SORA_USD_PER_SECOND",
    "AccessCheck",
    "Account",
    "Capabilities",
    "HttpProvider",
    "HttpSettings",
    "Match",
    "Provider",
    "RotatedProvider",
    "UnclaimedFound",
    "UnreadableItem",
    "adapt",
    "check_depth",
    "default_provider",
    "duration_hints",
    "echoes_key",
    "is_moderation",
    "match_prompt",
    "open_provider",
    "optimize_duration",
    "split_secrets",
    "usd_for",
    "with_key",
    "with_previous_key",
]
