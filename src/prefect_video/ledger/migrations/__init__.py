"""The ledger's schema, revision by revision."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def migration_config() -> Config:
    """Alembic's settings, without a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def run_migrations(connection: Connection, revision: str) -> None:
    """Runs the missing migrations up to a revision, inside the connection's transaction."""
    config = migration_config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
