"""Fixtures for downloads and stores: a web server, an S3 server, a clip."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from prefect_video.downloads.transfer import open_download_client
from prefect_video.downloads.url_safety import LinkPolicy
from tests.support.clips import write_clip
from tests.support.s3_server import S3Server, serve_s3
from tests.support.web_server import Web, running_web


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start one S3 server for the whole run; each test uses a bucket of its own."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """Create a bucket and return its name."""
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    s3.make_bucket(name)
    return name


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an MP4 of one second whose index comes first."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return write_clip(path, options={"movflags": "faststart"})


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    """Run a web server; the test sets its handler."""
    async with running_web() as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Open a download client."""
    async with open_download_client(trust_env=False) as opened:
        yield opened


@pytest.fixture
def here() -> LinkPolicy:
    """Return the link policy of a provider on this machine."""
    return LinkPolicy(trusted_host="127.0.0.1")
