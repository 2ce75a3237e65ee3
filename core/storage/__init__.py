"""Where videos are kept: local folders and S3 buckets behind one `Store`."""

from prefect_video.storage.base import Store
from prefect_video.storage.registry import copy_between, exists_anywhere, open_store

__all__ = ["Store", "copy_between", "exists_anywhere", "open_store"]
