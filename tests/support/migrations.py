"""New ledgers: Alembic writes the schema of the first in a process, its statements are repeated for all others.

Most tests begin with an empty ledger, and Alembic takes ten times as long as the database. What depends on Alembic
itself uses `real_migrations`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final
from uuid import uuid4

import pytest
from sqlalchemy import Connection, event, insert

from prefect_video.ledger import migrations, schema
from prefect_video.ledger.tables import ledger_identity

RUN_MIGRATIONS: Final = migrations.run_migrations

_IDENTITY: Final = f"INSERT INTO {ledger_identity.name} "


class RecordedMigrations:
    """The statements that make an empty database a ledger, one list for each kind of database."""

    def __init__(self) -> None:
        self._statements: dict[str, list[str]] = {}

    def run(self, connection: Connection, revision: str) -> None:
        """Stand in for `run_migrations`; what is not the creation of a whole ledger is left to it."""
        if revision != "head" or schema._current(connection) is not None:
            RUN_MIGRATIONS(connection, revision)
        elif (statements := self._statements.get(connection.dialect.name)) is None:
            self._statements[connection.dialect.name] = _record(connection)
        else:
            _repeat(connection, statements)


def _record(connection: Connection) -> list[str]:
    statements: list[str] = []

    def record(_: Connection, _cursor: object, statement: str, parameters: object, *_rest: object) -> None:
        if not statement.lstrip().startswith((_IDENTITY, "PRAGMA", "SELECT")):
            assert not parameters, f"a statement with parameters cannot be repeated: {statement}"
            statements.append(statement)

    event.listen(connection, "before_cursor_execute", record)
    try:
        RUN_MIGRATIONS(connection, "head")
    finally:
        event.remove(connection, "before_cursor_execute", record)
    return statements


def _repeat(connection: Connection, statements: list[str]) -> None:
    driver = connection.connection

    def execute(file: sqlite3.Connection) -> None:
        for statement in statements:
            file.execute(statement)

    if connection.dialect.name == "sqlite":
        driver.run_async(lambda ledger: ledger.run(execute))  # type: ignore[attr-defined]
    else:
        driver.run_async(lambda server: server.execute(";\n".join(statements)))  # type: ignore[attr-defined]
    # Each ledger has an identity of its own.
    connection.execute(insert(ledger_identity).values(id=str(uuid4())))


@pytest.fixture(scope="session", autouse=True)
def recorded_migrations() -> Iterator[None]:
    """Let Alembic run once in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "run_migrations", RecordedMigrations().run)
        yield


@pytest.fixture
def real_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Alembic write every ledger of a test."""
    monkeypatch.setattr(migrations, "run_migrations", RUN_MIGRATIONS)
