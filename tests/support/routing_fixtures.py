"""Fixtures of the routing harness: two accounts on one ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from tests.support.routing import RoutingHarness, open_routing


@pytest.fixture
def emulators() -> Iterator[tuple[Emulator, Emulator]]:
    """Start the providers of the dear and of the cheap account."""
    fast = EmulatorSettings(port=0, speed=2000, render="plate")
    with Emulator(fast.model_copy(update={"monthly_quota": 2})) as at_dear, Emulator(fast) as at_cheap:
        yield at_dear, at_cheap


@pytest.fixture
async def routing(tmp_path: Path, emulators: tuple[Emulator, Emulator]) -> AsyncIterator[RoutingHarness]:
    async with open_routing(tmp_path, *emulators) as opened:
        yield opened
