"""Downloads: fetch a video from a link that may be slow, broken, expired or hostile.

Streams to a private partial file, resumes, checks addresses before connecting and content before accepting. May import
the records (`errors`, `shots`, `generations`, `assets`).
"""

from prefect_video.downloads.client import DEFAULT_SETTINGS, DownloadSettings
from prefect_video.downloads.content_credentials import (
    no_content_credentials,
    read_content_credentials,
    require_reader,
)
from prefect_video.downloads.decoder_threads import decode_in_thread
from prefect_video.downloads.images import (
    IMAGE_LIMIT_BYTES,
    Image,
    fetch_image,
    parse_image,
    read_image,
)
from prefect_video.downloads.media import (
    Media,
    Mismatch,
    check_media,
    find_mismatches,
    probe,
    read_last_frame,
    require_match,
)
from prefect_video.downloads.private_files import prepare_private_folder
from prefect_video.downloads.quality_gates import assess_quality, measure_content
from prefect_video.downloads.transfer import Downloaded, VideoSource, download, load_finished, open_download_client
from prefect_video.downloads.url_safety import LinkPolicy, check_url, origin, redact, show_source

__all__ = [
    "DEFAULT_SETTINGS",
    "IMAGE_LIMIT_BYTES",
    "DownloadSettings",
    "Downloaded",
    "Image",
    "LinkPolicy",
    "Media",
    "Mismatch",
    "VideoSource",
    "assess_quality",
    "check_media",
    "check_url",
    "decode_in_thread",
    "download",
    "fetch_image",
    "find_mismatches",
    "load_finished",
    "measure_content",
    "no_content_credentials",
    "open_download_client",
    "origin",
    "parse_image",
    "prepare_private_folder",
    "probe",
    "read_content_credentials",
    "read_image",
    "read_last_frame",
    "redact",
    "require_match",
    "require_reader",
    "show_source",
]
