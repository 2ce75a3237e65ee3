"""Fixtures of this folder."""

from tests.support.owner_fixtures import harness, ledger, open_harness, other
from tests.support.recovery_fixtures import postgres_server, postgres_url

__all__ = ["harness", "ledger", "open_harness", "other", "postgres_server", "postgres_url"]
