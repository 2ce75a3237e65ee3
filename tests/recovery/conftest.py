"""Fixtures of this folder."""

from tests.support.owner_fixtures import ledger, other
from tests.support.recovery_fixtures import open_workshop, postgres_server, postgres_url, workshop

__all__ = ["ledger", "open_workshop", "other", "postgres_server", "postgres_url", "workshop"]
