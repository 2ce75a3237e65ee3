"""Writes the statements of a new SQLite ledger anew: run as `python -m prefect_video.ledger.migrations.latest`."""

from __future__ import annotations

from sqlalchemy import create_engine, text

from prefect_video.ledger.latest_schema import STATEMENT_END, STATEMENTS
from prefect_video.ledger.migrations import run_migrations


def describe_latest() -> str:
    """Run all migrations in memory, and return the statements that make the same schema."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        run_migrations(connection, "head")
        # In the order in which they were made; SQLite makes the indexes of keys itself.
        made = connection.execute(text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"))
        return STATEMENT_END.join(made.scalars()) + "\n"


if __name__ == "__main__":
    STATEMENTS.write_text(describe_latest(), encoding="utf-8")
