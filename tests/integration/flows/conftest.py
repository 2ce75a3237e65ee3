"""Fixtures of this folder."""

from tests.support.flow_fixtures import session

__all__ = ["session"]
