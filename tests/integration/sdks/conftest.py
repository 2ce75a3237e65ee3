"""What the tests with the vendors' SDKs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from tests.support.provider_fixtures import account, emulator, provider, receiver, shared_emulator

__all__ = ["account", "emulator", "provider", "receiver", "shared_emulator"]


@pytest.fixture(scope="module")
def idle() -> Iterator[Emulator]:
    """Takes in anything and makes nothing: what is tried out costs no work, and nothing ends by itself."""
    with Emulator(EmulatorSettings(port=0, capacity=100_000, times="fixed:1000000", speed=1)) as running:
        yield running
