"""Fixtures of this folder."""

from tests.support.flow_fixtures import studio

__all__ = ["studio"]
