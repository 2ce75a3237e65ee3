"""How often a shot uses the ledger: each call is a transaction of its own, and each that writes waits for the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.ledger import Ledger
from prefect_video.ledger.database import Database
from prefect_video.ledger.sqlite_driver import Statements
from prefect_video.pipeline.entry_points import run_project
from tests.support.recovery import a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness

SHOTS = 5
NO_HEARTBEAT = {"lease_seconds": 600.0}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the transactions of this process by kind, `reading` and `writing`."""
    counted: Counter[str] = Counter()

    def count_visits(name: str, kind: str) -> None:
        original = getattr(Database, name)

        async def counting(database: Database, statements: Statements[Any]) -> Any:
            # Elsewhere it opens a transaction by the method below.
            counted[kind] += database.is_sqlite
            return await original(database, statements)

        monkeypatch.setattr(Database, name, counting)

    def count(kind: str) -> None:
        original = getattr(Database, kind)

        @asynccontextmanager
        async def counting(database: Database) -> AsyncIterator[AsyncConnection]:
            counted[kind] += 1
            opened: AbstractAsyncContextManager[AsyncConnection] = original(database)
            async with opened as connection:
                yield connection

        monkeypatch.setattr(Database, kind, counting)

    count("reading")
    count("writing")
    count_visits("write", "writing")
    return counted


@pytest.fixture(params=["sqlite", "postgresql"])
async def ledger_url(request: pytest.FixtureRequest) -> str | None:
    """A new ledger; None for the harness's own SQLite file."""
    if request.param == "sqlite":
        return None
    url = str(request.getfixturevalue("postgres_url"))
    async with await Ledger.open(url, migrate=True):
        return url


async def test_a_cold_shot_makes_ten_calls_of_which_five_write(
    open_harness: OpenHarness, ledger_url: str | None, calls: Counter[str]
) -> None:
    harness = open_harness(ledger_url)
    async with harness.session(**NO_HEARTBEAT) as session:
        calls.clear()
        assert statuses(await run_project(session, film(a_shot(1), name="pilot"))) == ["stored"]
        # The first video of a store gives it its identity.
        assert calls["writing"] <= 6
    async with harness.session(**NO_HEARTBEAT) as session:
        calls.clear()
        assert statuses(await run_project(session, film(a_shot(2)))) == ["stored"]
        assert calls["writing"] <= 5, calls
        assert calls.total() <= 10, calls
    assert harness.paid == (2, 2)


async def test_each_further_shot_of_a_project_makes_five_calls_of_which_four_write(
    open_harness: OpenHarness, ledger_url: str | None, calls: Counter[str]
) -> None:
    harness = open_harness(ledger_url)
    made: list[Counter[str]] = []
    async with harness.session(**NO_HEARTBEAT, account_slots=100) as session:
        assert statuses(await run_project(session, film(a_shot(99), name="pilot"))) == ["stored"]
        for first, number in ((1, 1), (2, 1 + SHOTS)):
            calls.clear()
            shots = [a_shot(first * 10 + shot) for shot in range(number)]
            assert statuses(await run_project(session, film(*shots, name=f"film{first}"))) == ["stored"] * number
            made.append(calls.copy())
    single, many = made
    assert many["writing"] - single["writing"] == 4 * SHOTS
    # On PostgreSQL the time since the intent is read from the server's clock before the request leaves.
    assert many["reading"] - single["reading"] == (1 if ledger_url is None else 2) * SHOTS
    assert single["writing"] == 5
    assert harness.paid == (3 + SHOTS, 3 + SHOTS)
