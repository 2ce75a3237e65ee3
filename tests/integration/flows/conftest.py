"""Fixtures of this folder."""

from tests.support.flow_fixtures import session
from tests.support.storage_fixtures import bucket, s3
from tests.support.wheel import installed_wheel, wheel

__all__ = ["bucket", "installed_wheel", "s3", "session", "wheel"]
