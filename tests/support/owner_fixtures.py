"""Fixtures of two owners of one ledger, and of harnesses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from prefect_video.ledger import Ledger
from tests.support.recovery_fixtures import harness, open_harness

__all__ = ["harness", "open_harness"]


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with await Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened


@pytest.fixture
async def other(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Ledger]:
    """Open the same ledger as a second owner, as another process would."""
    async with await Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened
