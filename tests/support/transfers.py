"""Transfers of one random video from a test server."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_video.downloads.transfer import Downloaded, DownloadSettings, VideoSource, download
from prefect_video.downloads.url_safety import LinkPolicy
from tests.support.web_server import Web

QUICK = DownloadSettings(
    tries=3, outage_seconds=0.0, backoff_seconds=0.001, read_timeout_seconds=0.3, unready_seconds=0.0
)
VIDEO = b"\0\0\0\x18ftypisom" + os.urandom(3 * 2**20)
MP4 = {"Content-Type": "video/mp4"}


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "gen_1.mp4"


async def fetch(web: Web, spool: Path, client: httpx.AsyncClient, **more: Any) -> Downloaded:
    more = {"policy": LinkPolicy(trusted_host="127.0.0.1"), "settings": QUICK, **more}
    source = more.pop("source", VideoSource(web.url("/video.mp4?signature=hush")))
    return await download(source, spool, client=client, **more)


def assert_is_video(got: Downloaded, spool: Path) -> None:
    assert got == Downloaded(spool, hashlib.sha256(VIDEO).hexdigest(), len(VIDEO))
    assert spool.read_bytes() == VIDEO
    assert [path.name for path in spool.parent.iterdir()] == [spool.name]
