"""Fixtures of this folder."""

from tests.support.service_fixtures import (
    either,
    environment,
    ledger,
    other,
    postgres_server,
    postgres_url,
    provider,
    sqlite_url,
    url,
)

__all__ = [
    "either",
    "environment",
    "ledger",
    "other",
    "postgres_server",
    "postgres_url",
    "provider",
    "sqlite_url",
    "url",
]
