"""Fixtures of this folder."""

from tests.support.polling_fixtures import crowded, open_session
from tests.support.recovery_fixtures import harness, open_harness, postgres_server, postgres_url
from tests.support.routing_fixtures import emulators, routing

__all__ = [
    "crowded",
    "emulators",
    "harness",
    "open_harness",
    "open_session",
    "postgres_server",
    "postgres_url",
    "routing",
]
