"""Fixtures of this folder."""

from tests.support.flow_fixtures import session
from tests.support.storage_fixtures import bucket, s3

__all__ = ["bucket", "s3", "session"]
