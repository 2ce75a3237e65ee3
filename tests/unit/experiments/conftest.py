"""Fixtures of this folder."""

from tests.support.polling_fixtures import crowded, open_session

__all__ = ["crowded", "open_session"]
