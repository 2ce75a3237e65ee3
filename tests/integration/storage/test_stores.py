"""What every store promises, tried on a folder and on a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_video.errors import InvalidInput, StoreError
from prefect_video.storage import Store, copy_between, exists_anywhere, open_store
from prefect_video.storage.base import SourceChanged, validate_name, validate_path
from tests.support.s3_server import S3Server

LARGE = 18 * 2**20


@pytest.fixture(params=["folder", "bucket", "prefix"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server, bucket: str) -> AsyncIterator[Store]:
    if request.param == "folder":
        opened = open_store((tmp_path / "a folder").as_uri())
    else:
        path = "/films/2026" if request.param == "prefix" else ""
        opened = open_store(f"s3://{bucket}{path}", options=s3.options)
    yield opened
    await opened.aclose()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool.mp4"
    path.write_bytes(os.urandom(100_000))
    return path


def target(name: str = "opening.mp4") -> PurePosixPath:
    return PurePosixPath("coffee-ad") / name


async def publish(store: Store, spool: Path, name: str = "opening.mp4") -> str:
    return await store.publish(spool, target(name), content_type="video/mp4")


@pytest.mark.parametrize("size", [100_000, LARGE])
async def test_a_file_with_another_digest_is_not_published(store: Store, spool: Path, size: int) -> None:
    spool.write_bytes(content := os.urandom(size))
    checked = hashlib.sha256(content).hexdigest()
    await store.publish(spool, target("good.mp4"), content_type="video/mp4", sha256=checked)
    spool.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SourceChanged, match="changed after it was checked"):
        await store.publish(spool, target("bad.mp4"), content_type="video/mp4", sha256=checked)
    assert {file.uri async for file in store.files("coffee-ad")} == {store.uri(target("good.mp4"))}


@pytest.mark.parametrize("size", [0, 1, 8 * 2**20, 8 * 2**20 + 1, LARGE])
async def test_a_file_comes_back_as_it_went(store: Store, spool: Path, tmp_path: Path, size: int) -> None:
    spool.write_bytes(content := os.urandom(size))
    uri = await publish(store, spool)
    assert uri == store.uri(target()) == f"{store.url}/coffee-ad/opening.mp4"
    assert store.owns(uri)
    assert await store.size(uri) == size
    assert await store.read_bytes(uri) == content
    await store.fetch(uri, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


async def test_publishing_replaces(store: Store, spool: Path) -> None:
    await publish(store, spool)
    spool.write_bytes(b"newer")
    assert await store.read_bytes(await publish(store, spool)) == b"newer"


async def test_a_missing_file_is_distinguished_from_an_empty_file(store: Store, spool: Path) -> None:
    await publish(store, spool)
    missing = store.uri(target("other.mp4"))
    assert await store.size(missing) is None
    with pytest.raises(FileNotFoundError):
        await store.read_bytes(missing)
    with pytest.raises(StoreError):
        await store.fetch(missing, spool.with_name("back"))
    await store.delete(missing)


@pytest.mark.parametrize("count", [3, 45])
async def test_many_files_are_looked_up_at_once(store: Store, spool: Path, count: int) -> None:
    spool.write_bytes(b"small")
    there = [await publish(store, spool, f"shot-{n}.mp4") for n in range(count)]
    missing = [store.uri(target(f"missing-{n}.mp4")) for n in range(count)]
    assert set(await store.sizes([*there, *missing])) == set(there)
    assert set(await store.sizes(missing)) == set()
    assert set(await store.sizes([])) == set()


async def test_a_copy_is_a_file_of_its_own(store: Store, spool: Path) -> None:
    uri = await publish(store, spool)
    copied = await store.copy(uri, PurePosixPath("tea-ad/opening.mp4"))
    await store.delete(uri)
    assert set(await store.sizes([uri, copied])) == {copied}
    assert await store.read_bytes(copied) == spool.read_bytes()
    assert await store.copy(copied, PurePosixPath("tea-ad/opening.mp4")) == copied


async def test_files_of_other_stores_are_found_and_copied(
    store: Store, spool: Path, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": s3.endpoint_url,
        "AWS_ACCESS_KEY_ID": s3.options["key"],
        "AWS_SECRET_ACCESS_KEY": s3.options["secret"],
    }.items():
        monkeypatch.setenv(name, value)
    s3.make_bucket(other := f"other-{uuid.uuid4().hex[:8]}")
    for url in (str(tmp_path / "other"), f"s3://{other}/deep"):
        elsewhere = open_store(url)
        uri = await publish(elsewhere, spool)
        await elsewhere.aclose()
        assert not store.owns(uri)
        assert await exists_anywhere(store, [uri, uri + "x"]) == {uri}
        copied = await copy_between(store, uri, target("copied.mp4"))
        assert store.owns(copied)
        assert await store.read_bytes(copied) == spool.read_bytes()


@pytest.mark.parametrize("uri", ["file:///", "file:///..", "file://host/x", "http://host/x", "x", "s3://bucket"])
async def test_what_is_no_stored_file_cannot_be_looked_up(store: Store, uri: str) -> None:
    for lookup in (store.sizes([uri]), exists_anywhere(store, [uri])):
        with pytest.raises(InvalidInput):
            await lookup


async def test_only_files_of_this_store_are_removed(store: Store) -> None:
    for uri in ("file:///etc/hosts", "s3://somebody-elses/file.mp4", store.url, f"{store.url}/../x.mp4"):
        assert not store.owns(uri)
        with pytest.raises(InvalidInput, match="outside the store"):
            await store.delete(uri)


async def test_a_check_leaves_nothing(store: Store, tmp_path: Path, s3: S3Server, bucket: str) -> None:
    await store.check()
    assert s3.files(bucket) == {}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "path",
    ["../up.mp4", "/root.mp4", "a/../../b.mp4", ".hidden/a.mp4", "a b.mp4", "a/ü.mp4", "", "a\\b.mp4", "a\0.mp4"],
)
async def test_paths_that_lead_elsewhere_are_refused(store: Store, spool: Path, path: str) -> None:
    with pytest.raises(InvalidInput):
        await store.publish(spool, PurePosixPath(path), content_type="video/mp4")


async def test_a_file_that_is_not_there_is_not_published(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none\.mp4"):
        await publish(store, tmp_path / "none.mp4")
    assert await store.size(store.uri(target())) is None


async def test_a_store_serves_more_than_one_event_loop(store: Store, spool: Path) -> None:
    uri = await publish(store, spool)

    def elsewhere() -> int | None:
        async def look() -> int | None:
            try:
                return await store.size(uri)
            finally:
                await store.aclose()

        return asyncio.run(look())

    assert await asyncio.to_thread(elsewhere) == 100_000
    assert await store.size(uri) == 100_000


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "http://host/x", "file://host/x", "", "s3://", "s3:///x", "s3://k:s@b/x", "s3://b/../c"]
)
def test_addresses_that_are_not_understood_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"store|path|plain") as caught:
        open_store(url)
    assert "k:s" not in str(caught.value)


def test_options_that_are_not_understood_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="unknown option 'secrte'"):
        open_store("s3://bucket", options={"key": "hush", "secrte": "hush"})
    with pytest.raises(InvalidInput, match="both key and secret"):
        open_store("s3://bucket", options={"key": "hush"})
    with pytest.raises(InvalidInput, match="takes no options"):
        open_store(str(tmp_path), options={"key": "hush"})


def test_a_relative_path_is_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("videos").url == (tmp_path / "videos").as_uri()


@given(st.text(max_size=30))
def test_a_name_that_passes_is_one_component_below(name: str) -> None:
    try:
        validate_name(name)
    except InvalidInput:
        return
    assert Path(os.path.normpath(Path("/root") / name)).parent == Path("/root")
    assert validate_path(PurePosixPath(name)).parts == (name,)
