"""Fixtures of this folder."""

from tests.support.storage_fixtures import bucket, s3

__all__ = ["bucket", "s3"]
