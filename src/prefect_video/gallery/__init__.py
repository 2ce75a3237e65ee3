"""Gallery: the manifest of a project, and the page that shows it, both in the store beside the videos.

They are made from the ledger at the end of a run, and again at any time. May import `film`, `ledger`, `storage` and the
records (`errors`, `shots`, `assets`, `project_files`).
"""

from prefect_video.gallery.exported_rows import COLUMNS, RowFormat, read_rows, require_parquet, write_rows, write_sheet
from prefect_video.gallery.manifest import (
    MANIFEST_NAME,
    PAGE_NAME,
    FilmRecord,
    Manifest,
    ShotRecord,
    SpendRecord,
    TakeRecord,
    TakeStatus,
    VideoFile,
    manifest_schema,
    read_manifest,
    write_manifest,
)
from prefect_video.gallery.manifest_builder import TakeKey, TakeOutcome
from prefect_video.gallery.page import render_index, render_page
from prefect_video.gallery.publication import (
    PublishedGallery,
    compile_manifest,
    is_derived,
    load_manifest,
    publish_gallery,
    publish_index,
)
from prefect_video.gallery.status_page import (
    AccountLine,
    JobLine,
    LimitLine,
    ServiceStatus,
    render_status,
)

__all__ = [
    "COLUMNS",
    "MANIFEST_NAME",
    "PAGE_NAME",
    "AccountLine",
    "FilmRecord",
    "JobLine",
    "LimitLine",
    "Manifest",
    "PublishedGallery",
    "RowFormat",
    "ServiceStatus",
    "ShotRecord",
    "SpendRecord",
    "TakeKey",
    "TakeOutcome",
    "TakeRecord",
    "TakeStatus",
    "VideoFile",
    "compile_manifest",
    "is_derived",
    "load_manifest",
    "manifest_schema",
    "publish_gallery",
    "publish_index",
    "read_manifest",
    "read_rows",
    "render_index",
    "render_page",
    "render_status",
    "require_parquet",
    "write_manifest",
    "write_rows",
    "write_sheet",
]
