"""Servers and keys that refuse a part of the work: the check finds it, before anything is paid."""

from __future__ import annotations

import logging
import os
from pathlib import Path, PurePosixPath

import pytest
from aiohttp import web

from prefect_video.errors import StoreError
from prefect_video.storage import open_store, s3_upload
from prefect_video.storage.s3_upload import PART_BYTES
from tests.support.s3_faults import (
    Refusal,
    no_content_md5,
    no_deleting,
    no_parts,
    no_reading,
    serve_faulty_s3,
)
from tests.support.s3_server import S3Server

TARGET = PurePosixPath("film/opening.mp4")


@pytest.mark.parametrize("refuse", [no_reading, no_parts, no_deleting])
async def test_the_check_does_what_the_work_does(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, refuse: Refusal
) -> None:
    monkeypatch.setattr(s3_upload, "_HEAD_DELAYS_SECONDS", (0.01,))
    async with serve_faulty_s3(s3, refuse) as faulty:
        store = open_store(f"s3://{bucket}/films", options=faulty.options)
        with pytest.raises(StoreError, match=r"cannot write to s3://.*, read it and delete it"):
            await store.check()
        await store.aclose()
    if refuse is not no_deleting:
        assert s3.files(bucket) == {}


async def test_the_requests_of_the_check_are_those_of_the_work(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "large").write_bytes(bytes(PART_BYTES + 1))
    async with serve_faulty_s3(s3, lambda request: None) as faulty:
        store = open_store(f"s3://{bucket}/films", options=faulty.options)

        def kinds() -> set[tuple[str, frozenset[str]]]:
            """Method, and names of headers and parameters, of every request so far."""
            found = {
                (
                    method,
                    frozenset(name.lower() for name in headers) | {query.partition("=")[0] for query in queries(path)},
                )
                for method, path, headers in faulty.requests
            }
            faulty.requests.clear()
            return found

        await store.check()
        checked = kinds()
        for name in ("small", "large"):
            uri = await store.publish(tmp_path / name, TARGET, content_type="video/mp4")
            await store.size(uri)
            await store.read_bytes(uri)
            await store.delete(uri)
        assert kinds() == checked
        await store.aclose()


def queries(path: str) -> list[str]:
    return [query for query in path.partition("?")[2].split("&") if query]


@pytest.mark.parametrize("status", [403, 404])
async def test_an_object_that_is_found_a_little_later_is_published(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    hidden: list[str] = []

    def hide_after_writing(request: web.Request) -> tuple[int, str] | None:
        is_written = any(method == "PUT" for method, *_ in faulty.requests)
        if request.method != "HEAD" or not is_written or len(hidden) == 2:
            return None
        hidden.append(request.path)
        return status, "NotYet"

    monkeypatch.setattr(s3_upload, "_HEAD_DELAYS_SECONDS", (0.01, 0.01))
    (tmp_path / "small").write_bytes(b"small")
    async with serve_faulty_s3(s3, hide_after_writing) as faulty:
        store = open_store(f"s3://{bucket}/films", options=faulty.options)
        await store.publish(tmp_path / "small", TARGET, content_type="video/mp4")
        await store.aclose()
    assert len(hidden) == 2
    assert list(s3.files(bucket)) == [f"films/{TARGET}"]


async def test_a_server_without_content_md5_gets_none_and_the_log_says_so(
    s3: S3Server, bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = tmp_path / "spool.mp4"
    spool.write_bytes(os.urandom(2 * PART_BYTES + 1))
    async with serve_faulty_s3(s3, no_content_md5) as faulty:
        store = open_store(f"s3://{bucket}/films", options=faulty.options)
        with caplog.at_level(logging.WARNING, "prefect_video"):
            await store.check()
            refused = sum("Content-MD5" in headers for *_, headers in faulty.requests)
            uri = await store.publish(spool, TARGET, content_type="video/mp4")
        await store.fetch(uri, tmp_path / "fetched")
        await store.aclose()
    assert (tmp_path / "fetched").read_bytes() == spool.read_bytes()
    assert [record.getMessage() for record in caplog.records if "Content-MD5" in record.getMessage()] == [
        f"s3://{bucket}/films: the server does not take Content-MD5, so that uploads go without a checksum and only"
        " their size is compared"
    ]
    # The client repeats a 501 of its own accord; once the header is given up, it is never sent again.
    assert sum("Content-MD5" in headers for *_, headers in faulty.requests) == refused
    assert list(s3.files(bucket)) == [f"films/{TARGET}"]
