"""Fixtures of this folder."""

from tests.support.ledger_fixtures import ledger, other, postgres_server, postgres_url, sqlite_url, url

__all__ = ["ledger", "other", "postgres_server", "postgres_url", "sqlite_url", "url"]
