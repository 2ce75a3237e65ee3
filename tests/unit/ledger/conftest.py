"""Fixtures of this folder."""

from tests.support.ledger_fixtures import (
    database,
    ledger,
    ledger_file,
    other,
    postgres_server,
    postgres_url,
    sqlite_url,
    url,
)

__all__ = ["database", "ledger", "ledger_file", "other", "postgres_server", "postgres_url", "sqlite_url", "url"]
