"""Fixtures of this folder."""

from tests.support.owner_fixtures import ledger, other
from tests.support.recovery_fixtures import harness, open_harness, postgres_server, postgres_url

__all__ = ["harness", "ledger", "open_harness", "other", "postgres_server", "postgres_url"]
