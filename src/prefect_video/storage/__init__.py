"""Storage: stores that videos are published to, on local disk or S3.

`open_store` opens a store by its URL. A reader sees a complete, verified file or nothing. May import `downloads` and
the records (`errors`, `shots`, `generations`, `assets`).
"""

from prefect_video.storage.base import NewFile, Store, StoredFile, guess_content_type
from prefect_video.storage.marker import STORE_MARKER
from prefect_video.storage.publish import (
    AssetDraft,
    LedgerReference,
    Sidecar,
    SidecarName,
    copy_video,
    file_sha256,
    fingerprint_digest,
    parse_sidecar,
    place_asset,
    publish_sidecar,
    publish_video,
    read_sidecar,
    sidecar_path,
    thumbnail_path,
)
from prefect_video.storage.registry import (
    copy_between,
    exists_anywhere,
    fetch_anywhere,
    open_store,
    open_store_for,
    read_sha256,
    sizes_anywhere,
)
from prefect_video.storage.rejected import (
    KeptVideo,
    delete_rejected,
    fetch_rejected,
    find_rejected,
    keep_rejected,
    read_kept,
    rejected_paths,
)
from prefect_video.storage.write_check import WriteCheck

__all__ = [
    "STORE_MARKER",
    "AssetDraft",
    "KeptVideo",
    "LedgerReference",
    "NewFile",
    "Sidecar",
    "SidecarName",
    "Store",
    "StoredFile",
    "WriteCheck",
    "copy_between",
    "copy_video",
    "delete_rejected",
    "exists_anywhere",
    "fetch_anywhere",
    "fetch_rejected",
    "file_sha256",
    "find_rejected",
    "fingerprint_digest",
    "guess_content_type",
    "keep_rejected",
    "open_store",
    "open_store_for",
    "parse_sidecar",
    "place_asset",
    "publish_sidecar",
    "publish_video",
    "read_kept",
    "read_sha256",
    "read_sidecar",
    "rejected_paths",
    "sidecar_path",
    "sizes_anywhere",
    "thumbnail_path",
]
