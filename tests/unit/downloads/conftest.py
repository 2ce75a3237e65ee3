"""Fixtures of this folder."""

from tests.support.storage_fixtures import bucket, client, clip, here, s3, web
from tests.support.transfers import spool

__all__ = ["bucket", "client", "clip", "here", "s3", "spool", "web"]
