"""Fixtures of this folder."""

from tests.support.storage_fixtures import bucket, client, clip, here, s3, web

__all__ = ["bucket", "client", "clip", "here", "s3", "web"]
