"""A bucket: nothing half-written, whatever interrupts an upload; errors that say what to do."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import pytest

from prefect_video.downloads.transfer import DownloadSettings, VideoSource, download
from prefect_video.downloads.url_safety import LinkPolicy
from prefect_video.errors import LinkExpired, StoreError
from prefect_video.storage import Store, open_store, s3_upload
from prefect_video.storage import s3 as s3_store
from tests.support.s3_server import KEY, SECRET, S3Server

TARGET = PurePosixPath("coffee-ad/opening.mp4")
PARTS = 5


@pytest.fixture
async def store(s3: S3Server, bucket: str) -> AsyncIterator[Store]:
    opened = open_store(f"s3://{bucket}/films", options=s3.options)
    yield opened
    await opened.aclose()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool.mp4"
    path.write_bytes(os.urandom(PARTS * s3_upload.PART_BYTES - 1))
    return path


def unfinished(s3: S3Server, bucket: str) -> list[Any]:
    try:
        return s3.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    except s3.client.exceptions.NoSuchUpload:
        return []  # so answers this server for a bucket that never had an upload


async def publish(store: Store, spool: Path) -> str:
    return await store.publish(spool, TARGET, content_type="video/mp4")


async def test_an_endpoint_in_an_exempt_range_is_reached_without_the_proxy(
    store: Store, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
    uri = await publish(store, spool)
    assert await store.size(uri) == spool.stat().st_size


async def test_a_failure_between_parts_leaves_nothing(
    store: Store, spool: Path, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = s3_upload._read_part

    def read(path: Path, part: Any) -> tuple[bytes, str]:
        if part.number == 3:
            assert len(unfinished(s3, bucket)) == 1
            os.truncate(path, 100)
        return real(path, part)

    monkeypatch.setattr(s3_upload, "_read_part", read)
    with pytest.raises(StoreError, match="became shorter"):
        await publish(store, spool)
    assert s3.files(bucket) == {}
    assert unfinished(s3, bucket) == []


async def test_damage_on_the_way_is_noticed(
    store: Store, spool: Path, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = s3_upload._read_part

    def read(path: Path, part: Any) -> tuple[bytes, str]:
        body, digest = real(path, part)
        return (bytes(100) + body[100:] if part.number == 3 else body), digest

    monkeypatch.setattr(s3_upload, "_read_part", read)
    with pytest.raises(StoreError, match="damaged on the way"):
        await publish(store, spool)
    assert s3.files(bucket) == {}
    assert unfinished(s3, bucket) == []


async def test_an_object_of_the_wrong_size_is_removed(
    store: Store, spool: Path, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = s3_upload._split_into_parts
    monkeypatch.setattr(s3_upload, "_split_into_parts", lambda size: real(size)[:-1])
    with pytest.raises(StoreError, match="arrived; removed"):
        await publish(store, spool)
    assert s3.files(bucket) == {}


async def test_a_cancelled_upload_leaves_nothing(
    store: Store, spool: Path, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    real = s3_upload._read_part

    def read(path: Path, part: Any) -> tuple[bytes, str]:
        if part.number == 3:
            begun.set()
            go_on.wait(10)
        return real(path, part)

    monkeypatch.setattr(s3_upload, "_read_part", read)
    task = asyncio.create_task(publish(store, spool))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert s3.files(bucket) == {}
    assert unfinished(s3, bucket) == []


@pytest.mark.parametrize("size", [PARTS * s3_upload.PART_BYTES - 1, s3_upload.PART_BYTES])
async def test_a_cancellation_at_any_moment_leaves_a_whole_file_or_none(
    store: Store, spool: Path, s3: S3Server, bucket: str, size: int
) -> None:
    os.truncate(spool, size)
    await store.check()
    for step in range(12):
        try:
            async with asyncio.timeout(0.002 * 1.7**step):
                await publish(store, spool)
        except TimeoutError:
            # The server may still be busy with the request that was dropped.
            found = await store.size(store.uri(TARGET))
            assert found in (None, size)
            assert unfinished(s3, bucket) == []
        else:
            assert await store.size(store.uri(TARGET)) == size
            await store.delete(store.uri(TARGET))
    assert set(s3.files(bucket).values()) <= {size}


KILLED = """
import asyncio, sys
from pathlib import Path, PurePosixPath
from prefect_video.storage import open_store, s3_upload

real = s3_upload._read_part
def read(path, part):
    if part.number == 4:
        print("mid-upload", flush=True)
        sys.stdin.read()
    return real(path, part)
s3_upload._read_part = read

async def main(url, key, secret, endpoint, spool):
    store = open_store(url, options={"key": key, "secret": secret, "endpoint_url": endpoint})
    await store.publish(Path(spool), PurePosixPath("coffee-ad/opening.mp4"), content_type="video/mp4")

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_upload_is_never_seen_and_can_be_done_again(
    store: Store, spool: Path, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        KILLED,
        store.url,
        KEY,
        SECRET,
        s3.endpoint_url,
        str(spool),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"mid-upload\n"
    process.kill()
    await process.wait()
    assert s3.files(bucket) == {}
    assert await store.size(store.uri(TARGET)) is None
    assert len(unfinished(s3, bucket)) == 1

    assert await store.size(await publish(store, spool)) == spool.stat().st_size
    assert await store.remove_stale_uploads() == 0
    monkeypatch.setattr(s3_store, "STALE_SECONDS", -1.0)
    assert await store.remove_stale_uploads() == 1
    assert unfinished(s3, bucket) == []
    assert await store.size(store.uri(TARGET)) == spool.stat().st_size


async def test_an_object_too_large_to_copy_at_once_is_copied_all_the_same(
    store: Store, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = await publish(store, spool)
    monkeypatch.setattr(s3_store, "_COPY_LIMIT_BYTES", 2**20)
    copied = await store.copy(uri, PurePosixPath("tea-ad/opening.mp4"))
    assert await store.read_bytes(copied) == spool.read_bytes()


async def test_copying_what_is_not_there_says_so(store: Store) -> None:
    with pytest.raises(StoreError, match="no such object"):
        await store.copy(store.uri(TARGET), PurePosixPath("tea-ad/opening.mp4"))


async def test_objects_say_what_they_are(store: Store, spool: Path, s3: S3Server, bucket: str) -> None:
    await publish(store, spool)
    assert s3.client.head_object(Bucket=bucket, Key=f"films/{TARGET}")["ContentType"] == "video/mp4"


async def assert_says(store: Store, spool: Path, message: str, *, retryable: bool) -> None:
    """Every way of using the store gives the same clear error, without a secret."""
    uri = store.uri(TARGET)
    for call in (store.check(), publish(store, spool), store.sizes([uri]), store.remove_stale_uploads()):
        with pytest.raises(StoreError, match=message) as caught:
            await call
        assert caught.value.retryable is retryable
        assert not any(secret in str(caught.value) for secret in (KEY, SECRET, "AKIAWRONG", "hush"))
    await store.aclose()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"key": "AKIAWRONG"}, "access key is not known|access denied"),
        ({"secret": "hush"}, "secret does not match|access denied"),
    ],
)
async def test_wrong_keys_are_reported_without_being_shown(
    s3: S3Server, bucket: str, spool: Path, wrong: dict[str, str], message: str
) -> None:
    await assert_says(open_store(f"s3://{bucket}", options=s3.options | wrong), spool, message, retryable=False)


async def test_a_missing_bucket_is_no_missing_file(s3: S3Server, spool: Path) -> None:
    store = open_store("s3://no-such-bucket", options=s3.options)
    await assert_says(store, spool, "no such bucket", retryable=False)


async def test_an_endpoint_that_does_not_answer_is_reported(spool: Path, s3: S3Server) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        once = {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 1}}}
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        store = open_store("s3://films", options=s3.options | {"endpoint_url": endpoint} | once)
        await assert_says(store, spool, f"{endpoint} cannot be reached", retryable=True)


async def test_no_credentials_at_all_says_so(spool: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    store = open_store("s3://films", options={"endpoint_url": s3.endpoint_url})
    await assert_says(store, spool, "AWS_ACCESS_KEY_ID", retryable=False)


def signed(s3: S3Server, bucket: str, *, seconds: int = 60) -> str:
    parameters = {"Bucket": bucket, "Key": f"films/{TARGET}"}
    return str(s3.client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=seconds))


async def test_signed_links_are_downloaded_refused_and_refreshed(
    store: Store, s3: S3Server, bucket: str, clip: Path, tmp_path: Path, client: httpx.AsyncClient, here: LinkPolicy
) -> None:
    await publish(store, clip)
    quick = DownloadSettings(backoff_seconds=0.0)
    good = signed(s3, bucket)
    signature = good.rpartition("Signature=")[2]
    bad = {
        "tampered": good.replace(signature, signature[::-1]),
        "unsigned": good.partition("?")[0],
        "other object": good.replace("opening", "ending"),
        "expired": signed(s3, bucket, seconds=-10),
    }

    async def refresh() -> str:
        return good

    for name, link in bad.items():
        spool = tmp_path / f"{name}.mp4"
        with pytest.raises(LinkExpired) as caught:
            await download(VideoSource(link), spool, client=client, policy=here, settings=quick)
        assert "Signature" not in str(caught.value)
        got = await download(VideoSource(link), spool, client=client, policy=here, settings=quick, refresh=refresh)
        assert got.path.read_bytes() == clip.read_bytes()


UPLOAD = """
import asyncio, sys
from pathlib import Path, PurePosixPath
from prefect_video.storage import open_store

def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])

async def main(url, key, secret, endpoint, spool):
    store = open_store(url, options={"key": key, "secret": secret, "endpoint_url": endpoint})
    await store.check()
    before = peak()
    await store.publish(Path(spool), PurePosixPath("large.mp4"), content_type="video/mp4")
    print(peak() - before)
    await store.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory from /proc")
async def test_a_large_upload_adds_less_than_64_megabytes_of_memory(
    store: Store, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    large = tmp_path / "large.mp4"
    size = int(os.environ.get("LARGE_UPLOAD_BYTES", 384 * 2**20))
    with large.open("wb") as file:
        file.truncate(size)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", UPLOAD, store.url, KEY, SECRET, s3.endpoint_url, str(large), stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert s3.files(bucket) == {"films/large.mp4": size}
    await store.delete(f"{store.url}/large.mp4")
    assert int(out) < 64 * 1024


async def test_an_object_replaced_while_it_is_read_is_read_again() -> None:
    answers = [b"Content-Length: 90\r\n\r\n" + b"x" * 31, b"Content-Length: 3\r\n\r\nnew"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + answers.pop(0))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    opened = open_store("s3://films", options={"key": KEY, "secret": SECRET, "endpoint_url": f"http://{host}:{port}"})
    try:
        assert await opened.read_bytes("s3://films/marker") == b"new"
    finally:
        await opened.aclose()
        server.close()
    assert answers == []


async def test_writers_that_begin_at_once_agree_on_the_marker(s3: S3Server, bucket: str) -> None:
    # This server ignores conditions, as some do: each writer replaces the marker that others are reading.
    for attempt in range(12):
        stores = [open_store(f"s3://{bucket}/{attempt}", options=s3.options) for _ in range(3)]
        identities = await asyncio.gather(*(store.create_identity("same") for store in [*stores, *stores]))
        assert set(identities) == {"same"}
        await asyncio.gather(*(store.aclose() for store in stores))
