"""Two owners of one ledger, and harnesses."""

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
    """A second owner of the same ledger, as another process would be."""
    async with await Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened
