"""Fixtures of this folder."""

from tests.support.polling_fixtures import crowded, open_studio
from tests.support.recovery_fixtures import open_workshop, postgres_server, postgres_url, workshop
from tests.support.routing_fixtures import emulators, house

__all__ = [
    "crowded",
    "emulators",
    "house",
    "open_studio",
    "open_workshop",
    "postgres_server",
    "postgres_url",
    "workshop",
]
