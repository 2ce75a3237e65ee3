"""Where videos are kept: local folders and S3 buckets behind one `Store`."""

from prefect_video.storage.base import Store, StoredFile, open_store

__all__ = ["Store", "StoredFile", "open_store"]
