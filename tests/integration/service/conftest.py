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
from tests.support.storage_fixtures import bucket, s3

__all__ = [
    "bucket",
    "environment",
    "ledger",
    "other",
    "postgres_server",
    "postgres_url",
    "provider",
    "s3",
    "sqlite_url",
    "url",
]
