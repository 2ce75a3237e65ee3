"""Ledgers on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from prefect_video.ledger import Ledger
from prefect_video.ledger.database import Database
from prefect_video.ledger.urls import parse_database_url
from tests.support.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger_file(tmp_path: Path) -> Path:
    """The SQLite file of `database`."""
    return tmp_path / "ledger.db"


@pytest.fixture
async def database(request: pytest.FixtureRequest, ledger_file: Path) -> AsyncIterator[Database]:
    """A SQLite database with the tables of the test module's `SCHEMA`, instead of a ledger's."""
    database = Database(parse_database_url(str(ledger_file)))
    async with database.writing() as connection:
        for statement in request.module.SCHEMA:
            await connection.execute(text(statement))
    yield database
    await database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """A database without tables, once for each kind."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
async def ledger(url: str) -> AsyncIterator[Ledger]:
    async with await Ledger.open(url, migrate=True) as opened:
        yield opened


@pytest.fixture
async def other(ledger: Ledger, url: str) -> AsyncIterator[Ledger]:
    """A second owner of the same ledger."""
    async with await Ledger.open(url) as opened:
        yield opened
