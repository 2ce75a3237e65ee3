"""The schema of a new SQLite ledger in one piece, as all migrations together make it.

Alembic takes longer than all else of a short run, in time and memory, and a new file has nothing to migrate.
`python -m prefect_video.ledger.migrations.latest` writes the statements anew after a migration was added.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from uuid import uuid4

from sqlalchemy import Connection, insert, text

from prefect_video.ledger.tables import VERSION_TABLE, ledger_identity

STATEMENTS: Final = Path(__file__).with_suffix(".sql")
STATEMENT_END: Final = ";\n\n"
"""End of a statement in the file; within one, such as a trigger, no line follows a semicolon."""


def create_latest_schema(connection: Connection, revision: str) -> None:
    """Make an empty SQLite database a ledger, in the connection's transaction.

    Args:
        connection: Connection to the database.
        revision: The revision that the statements are those of.
    """
    for statement in STATEMENTS.read_text(encoding="utf-8").split(STATEMENT_END):
        connection.exec_driver_sql(statement)
    connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES (:revision)"), {"revision": revision})
    connection.execute(insert(ledger_identity).values(id=str(uuid4())))
