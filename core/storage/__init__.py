"""Where videos are kept: local folders and S3 buckets behind one `Store`."""

from prefect_video.storage.base import Store, open_store

__all__ = ["Store", "open_store"]
