"""Fixtures of this folder."""

from tests.support.polling_fixtures import crowded, open_session, postgres_server, postgres_url

__all__ = ["crowded", "open_session", "postgres_server", "postgres_url"]
