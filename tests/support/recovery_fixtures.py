"""Fixtures of the recovery harness, on emulators of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from tests.support.postgres import postgres_server, postgres_url
from tests.support.recovery import RecoveryHarness

__all__ = ["postgres_server", "postgres_url"]

SLOW: Final[Mapping[str, Any]] = {"speed": 0.01, "hint": False}
"""Settings of an emulator that works until the test ends it with `change_speed`, however slow the machine is."""

OpenHarness = Callable[..., RecoveryHarness]


@pytest.fixture
def open_harness(tmp_path: Path) -> Iterator[OpenHarness]:
    """Return a factory: `open_harness(echo_metadata=False)` starts an emulator with these settings."""
    with ExitStack() as stack:

        def open_with(ledger_url: str | None = None, **settings: Any) -> RecoveryHarness:
            values = {"port": 0, "speed": 500, "render": "plate", **settings}
            emulator = stack.enter_context(Emulator(EmulatorSettings(**values)))
            return RecoveryHarness(emulator, tmp_path, ledger_url or f"sqlite:///{tmp_path / 'ledger.db'}")

        yield open_with


@pytest.fixture
def harness(open_harness: OpenHarness) -> RecoveryHarness:
    """Return a harness with the usual settings, on SQLite."""
    return open_harness()
