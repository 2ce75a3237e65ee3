"""New ledgers on PostgreSQL: Alembic writes the first in a process, its statements are repeated for all others.

Most tests begin with an empty ledger, and Alembic takes ten times as long as the database. What depends on Alembic
itself uses `real_migrations`; on SQLite a new ledger needs none.
"""

from __future__ import annotations

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
    """The statements that make an empty database a ledger."""

    def __init__(self) -> None:
        self._statements: list[str] = []

    def run(self, connection: Connection, revision: str) -> None:
        """Stand in for `run_migrations`; what is not the creation of a whole ledger is left to it."""
        if revision != schema.HEAD or schema._current(connection) is not None:
            RUN_MIGRATIONS(connection, revision)
        elif self._statements:
            _repeat(connection, self._statements)
        else:
            self._statements = _record(connection)


def _record(connection: Connection) -> list[str]:
    statements: list[str] = []

    def record(_: Connection, _cursor: object, statement: str, parameters: object, *_rest: object) -> None:
        if not statement.lstrip().startswith((_IDENTITY, "PRAGMA", "SELECT")):
            assert not parameters, f"a statement with parameters cannot be repeated: {statement}"
            statements.append(statement)

    event.listen(connection, "before_cursor_execute", record)
    try:
        RUN_MIGRATIONS(connection, schema.HEAD)
    finally:
        event.remove(connection, "before_cursor_execute", record)
    return statements


def _repeat(connection: Connection, statements: list[str]) -> None:
    script = ";\n".join(statements)
    connection.connection.run_async(lambda server: server.execute(script))  # type: ignore[attr-defined]
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
    monkeypatch.setattr(schema, "_needs_no_migration", lambda *_: False)
