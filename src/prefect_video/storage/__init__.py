"""Where videos are kept: local folders and S3 buckets behind one `Store`."""

from prefect_video.storage.base import Store, StoredFile
from prefect_video.storage.registry import copy_between, exists_anywhere, open_store, sizes_anywhere

__all__ = ["Store", "StoredFile", "copy_between", "exists_anywhere", "open_store", "sizes_anywhere"]
