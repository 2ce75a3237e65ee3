"""Fixtures of this folder."""

from tests.support.service_fixtures import (
    environment,
    ledger,
    other,
    postgres_server,
    postgres_url,
    provider,
    sqlite_url,
    url,
)

__all__ = ["environment", "ledger", "other", "postgres_server", "postgres_url", "provider", "sqlite_url", "url"]
