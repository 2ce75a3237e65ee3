"""Downloads: fetch a video from a link that may be slow, broken, expired or hostile.

Streams to a private partial file, resumes, checks addresses before connecting and content before accepting. May import
the records (`errors`, `shots`, `generations`, `assets`).
"""

from prefect_video.downloads.client import DEFAULT_SETTINGS, DownloadSettings
from prefect_video.downloads.media import Media, check_media, probe
from prefect_video.downloads.private_files import prepare_private_folder
from prefect_video.downloads.transfer import Downloaded, VideoSource, download, load_finished, open_download_client
from prefect_video.downloads.url_safety import LinkPolicy, check_url, origin

__all__ = [
    "DEFAULT_SETTINGS",
    "DownloadSettings",
    "Downloaded",
    "LinkPolicy",
    "Media",
    "VideoSource",
    "check_media",
    "check_url",
    "download",
    "load_finished",
    "open_download_client",
    "origin",
    "prepare_private_folder",
    "probe",
]
