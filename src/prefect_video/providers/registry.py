"""Registry of providers by name: ours, and those that other packages add by entry point (`prefect_video.providers`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Final

from prefect_video.errors import InvalidInput
from prefect_video.providers.base import Provider

ENTRY_POINTS: Final = "prefect_video.providers"

Opener = Callable[[Mapping[str, str]], Provider]
"""Function that opens a provider from environment variables; raises `InvalidInput` that names a missing variable."""


def provider_names() -> list[str]:
    """Return the names of all providers that `open_provider` can open."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINTS)})


def open_provider(name: str, environ: Mapping[str, str] = os.environ) -> Provider:
    """Open a provider by name, configured by the environment.

    Raises:
        InvalidInput: There is no such provider, or its environment variables are missing or wrong.
    """
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            opener: Opener = point.load()
            return opener(environ)
    raise InvalidInput(f"provider: there is no provider {name!r}; choose one of {', '.join(provider_names())}")


def default_provider(environ: Mapping[str, str] = os.environ) -> str:
    """Return the provider for runs that name none: `sora` when its key is set, else the embedded `emulator`."""
    return "sora" if environ.get("SORA_API_KEY") else "emulator"
