"""Writes the statements of a new SQLite ledger anew: run as `python -m prefect_video.ledger.migrations.latest`."""

from __future__ import annotations

from sqlalchemy import Connection, create_engine, text

from prefect_video.ledger.latest_schema import STATEMENT_END, STATEMENTS
from prefect_video.ledger.migrations import run_migrations
from prefect_video.ledger.schema import HEAD


def describe_latest() -> str:
    """Run all migrations in memory, and return the statements that make the same schema."""
    with create_engine("sqlite://").begin() as connection:
        run_migrations(connection, HEAD)
        return describe_schema(connection)


def describe_schema(connection: Connection) -> str:
    """Return the statements that make the schema of a SQLite database, in the order in which it was made."""
    # SQLite makes the indexes of keys itself.
    made = connection.execute(text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"))
    return STATEMENT_END.join(made.scalars()) + "\n"


if __name__ == "__main__":
    STATEMENTS.write_text(describe_latest(), encoding="utf-8")
