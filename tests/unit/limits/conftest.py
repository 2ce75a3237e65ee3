"""Fixtures of this folder."""

from tests.support.owner_fixtures import ledger, open_workshop, other, workshop
from tests.support.recovery_fixtures import postgres_server, postgres_url

__all__ = ["ledger", "open_workshop", "other", "postgres_server", "postgres_url", "workshop"]
