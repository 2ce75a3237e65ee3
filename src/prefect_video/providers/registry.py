"""Registry of providers by name: ours, and those that other packages add by entry point (`prefect_video.providers`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Final

from prefect_video.errors import InvalidInput
from prefect_video.providers.access import KEY_VARIABLES
from prefect_video.providers.base import Provider
from prefect_video.providers.key_rotation import with_previous_key

ACCOUNT_VARIABLE: Final = "PREFECT_VIDEO_ACCOUNT"
"""Environment variable with the name of the accounts whose keys are in the environment."""
ENTRY_POINTS: Final = "prefect_video.providers"

Opener = Callable[[Mapping[str, str]], Provider]
"""Function that opens a provider from environment variables; raises `InvalidInput` that names a missing variable."""


def provider_names() -> list[str]:
    """Return the names of all providers that `open_provider` can open."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINTS)})


def open_provider(name: str, environ: Mapping[str, str] = os.environ) -> Provider:
    """Open a provider by name, configured by the environment.

    `PREFECT_VIDEO_ACCOUNT` names its account, and the key's variable with `_PREVIOUS` behind its name holds the key
    that is being replaced.

    Raises:
        InvalidInput: There is no such provider, or its environment variables are missing or wrong.
    """
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            opener: Opener = point.load()
            variable = KEY_VARIABLES.get(name, "")
            previous_key = environ.get(f"{variable}_PREVIOUS") if variable else None
            previous = opener({**environ, variable: previous_key}) if previous_key else None
            return with_previous_key(opener(environ), previous, name=environ.get(ACCOUNT_VARIABLE))
    raise InvalidInput(f"provider: there is no provider {name!r}; choose one of {', '.join(provider_names())}")


def default_provider(environ: Mapping[str, str] = os.environ) -> str:
    """Return the provider for runs that name none: `sora` when its key is set, else the embedded `emulator`."""
    return "sora" if environ.get("SORA_API_KEY") else "emulator"
