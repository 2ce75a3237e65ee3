"""Emulators of every kind, and workshops on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from tests.support.postgres import postgres_server, postgres_url
from tests.support.recovery import Workshop

__all__ = ["postgres_server", "postgres_url"]

SLOW: Final[Mapping[str, Any]] = {"speed": 0.01, "hint": False}
"""For an emulator that is at work until the test lets it end with `change_speed`, however slow the machine is."""

OpenWorkshop = Callable[..., Workshop]


@pytest.fixture
def open_workshop(tmp_path: Path) -> Iterator[OpenWorkshop]:
    """A factory: `open_workshop(echo_metadata=False)` for an emulator with these settings."""
    with ExitStack() as stack:

        def open_with(ledger_url: str | None = None, **settings: Any) -> Workshop:
            values = {"port": 0, "speed": 500, "render": "plate", **settings}
            emulator = stack.enter_context(Emulator(EmulatorSettings(**values)))
            return Workshop(emulator, tmp_path, ledger_url or f"sqlite:///{tmp_path / 'ledger.db'}")

        yield open_with


@pytest.fixture
def workshop(open_workshop: OpenWorkshop) -> Workshop:
    """The usual one, on SQLite."""
    return open_workshop()
