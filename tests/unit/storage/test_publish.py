"""A published video is whole, and never without its sidecar, wherever the process dies."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from prefect_video.assets import Asset
from prefect_video.downloads.media import Media, probe
from prefect_video.downloads.transfer import Downloaded
from prefect_video.errors import InvalidInput, StoreError
from prefect_video.storage import Store, open_store
from prefect_video.storage.base import NewFile
from prefect_video.storage.local import LocalStore
from prefect_video.storage.publish import AssetDraft, copy_video, publish_video, read_sidecar
from tests.support.clips import write_clip
from tests.support.s3_faults import serve_faulty_s3
from tests.support.s3_server import S3Server

DRAFT = AssetDraft(
    project="coffee-ad",
    shot_id="opening",
    fingerprint="v1:0123456789abcdef" + "0" * 48,
    prompt="Dawn über a coffee plantation",
    model="sora-2",
    provider="sora",
    generation_id="gen_1",
    cost_usd=Decimal("2.50"),
    job_id="01J0000000000000000QWERTY",
)
NAME = "coffee-ad/opening.0123456789.QWERTY"


def downloaded(path: Path) -> Downloaded:
    content = path.read_bytes()
    return Downloaded(path, hashlib.sha256(content).hexdigest(), len(content))


@pytest.fixture
def video(clip: Path) -> Downloaded:
    return downloaded(clip)


@pytest.fixture(scope="session")
def media(clip: Path) -> Media:
    return probe(clip)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def files(store: Store) -> set[str]:
    assert isinstance(store, LocalStore)
    return {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}


async def test_a_video_is_stored_with_picture_and_record(store: Store, video: Downloaded, media: Media) -> None:
    asset = await publish_video(store, video, media, draft=DRAFT)
    assert files(store) == {f"{NAME}.mp4", f"{NAME}.jpg", f"{NAME}.json"}
    assert asset.uri == f"{store.url}/{NAME}.mp4"
    assert (asset.sha256, asset.bytes) == (video.sha256, video.bytes)
    assert await store.read_bytes(asset.uri) == video.path.read_bytes()
    assert (await store.read_bytes(asset.thumbnail_uri or "")).startswith(b"\xff\xd8")
    record = await store.read_bytes(asset.sidecar_uri or "")
    assert read_sidecar(record) == asset
    assert list(json.loads(record)) == sorted(json.loads(record))
    assert "Dawn über".encode() in record
    assert [path.name for path in video.path.parent.iterdir()] == [video.path.name]


async def test_a_bucket_holds_the_same(s3: S3Server, bucket: str, video: Downloaded, media: Media) -> None:
    store = open_store(f"s3://{bucket}", options=s3.options)
    asset = await publish_video(store, video, media, draft=DRAFT)
    assert set(s3.files(bucket)) == {f"{NAME}.mp4", f"{NAME}.jpg", f"{NAME}.json"}
    assert await publish_video(store, video, media, draft=DRAFT) == asset
    copied = await copy_video(store, asset, draft=DRAFT.model_copy(update={"project": "tea-ad"}))
    assert copied.sha256 == asset.sha256
    assert await store.size(copied.uri) == asset.bytes
    await store.aclose()


async def test_a_shot_costs_a_bucket_five_requests(s3: S3Server, bucket: str, video: Downloaded, media: Media) -> None:
    async with serve_faulty_s3(s3, lambda request: None) as relay:
        store = open_store(f"s3://{bucket}", options=relay.options)
        await publish_video(store, video, media, draft=DRAFT)
        await store.aclose()
    sent = [(method, PurePosixPath(path.partition("?")[0]).suffix) for method, path, _ in relay.requests]
    assert sent[0] == ("HEAD", ".mp4")
    assert sorted(sent[1:3]) == [("PUT", ".jpg"), ("PUT", ".json")]
    assert sent[3:] == [("PUT", ".mp4"), ("HEAD", ".mp4")]


async def test_a_shot_costs_a_disk_one_sync_for_each_file_and_one_for_their_names(
    store: Store, video: Downloaded, media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def count(handle: int) -> None:
        synced.append(Path(f"/dev/fd/{handle}").resolve().name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", count)
    await publish_video(store, video, media, draft=DRAFT)
    # The folder is new: its own name is made durable too.
    assert [name.split(".")[-3] if name.endswith(".unfinished") else name for name in synced] == [
        "jpg", "json", "mp4", "coffee-ad", "store"
    ]  # fmt: skip
    synced.clear()
    await publish_video(store, video, media, draft=DRAFT.model_copy(update={"shot_id": "closing"}))
    assert len(synced) == 4


async def test_publishing_again_changes_nothing(store: Store, video: Downloaded, media: Media) -> None:
    asset = await publish_video(store, video, media, draft=DRAFT)
    before = {name: (store.root / name).stat().st_mtime_ns for name in files(store)}  # type: ignore[attr-defined]
    assert await publish_video(store, video, media, draft=DRAFT) == asset
    assert before == {name: (store.root / name).stat().st_mtime_ns for name in files(store)}  # type: ignore[attr-defined]


@pytest.mark.parametrize("damage", ["short video", "no sidecar", "strange sidecar"])
async def test_what_is_damaged_is_published_anew(store: Store, video: Downloaded, media: Media, damage: str) -> None:
    asset = await publish_video(store, video, media, draft=DRAFT)
    root = Path(store.root)  # type: ignore[attr-defined]
    if damage == "short video":
        (root / f"{NAME}.mp4").write_bytes(b"short")
    elif damage == "no sidecar":
        (root / f"{NAME}.json").unlink()
    else:
        (root / f"{NAME}.json").write_text("[]")
    again = await publish_video(store, video, media, draft=DRAFT)
    assert (again.uri, again.sha256) == (asset.uri, asset.sha256)
    assert await store.read_bytes(again.uri) == video.path.read_bytes()
    assert read_sidecar(await store.read_bytes(again.sidecar_uri or "")) == again


class Interrupted(Exception):
    pass


class Dying:
    """Wraps a store: it dies before its nth change, and looks at every step that no video is without its own record."""

    def __init__(self, store: LocalStore, changes: int) -> None:
        self._store = store
        self._left = changes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def publish(
        self, spool: Path, relative: PurePosixPath, *, content_type: str, sha256: str | None = None
    ) -> str:
        self._step()
        return await self._store.publish(spool, relative, content_type=content_type, sha256=sha256)

    async def publish_all(self, files: Sequence[NewFile]) -> list[str]:
        replace_file = os.replace

        def step_and_replace(hidden: Path, target: Path) -> None:
            self._step()
            replace_file(hidden, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", step_and_replace)
            return await self._store.publish_all(files)

    async def copy(self, uri: str, relative: PurePosixPath) -> str:
        self._step()
        return await self._store.copy(uri, relative)

    async def delete(self, uri: str) -> None:
        self._step()
        await self._store.delete(uri)

    def _step(self) -> None:
        check_records(self._store)
        if self._left == 0:
            raise Interrupted
        self._left -= 1


def check_records(store: LocalStore) -> None:
    for path in store.root.rglob("*.mp4"):
        asset = read_sidecar(path.with_suffix(".json").read_bytes())
        assert asset is not None
        assert hashlib.sha256(path.read_bytes()).hexdigest() == asset.sha256


@pytest.mark.parametrize("changes", range(5))
@pytest.mark.parametrize("work", ["new", "replace", "copy"])
async def test_a_process_may_die_before_every_step(
    store: Store, video: Downloaded, media: Media, tmp_path: Path, work: str, changes: int
) -> None:
    assert isinstance(store, LocalStore)
    source: Asset | None = None
    if work == "replace":
        other = downloaded(write_clip(tmp_path / "other.mp4", seconds=0.5))
        await publish_video(store, other, media, draft=DRAFT)
    if work == "copy":
        source = await publish_video(store, video, media, draft=DRAFT.model_copy(update={"project": "elsewhere"}))

    async def do(store: Any) -> Asset:
        if source is not None:
            return await copy_video(store, source, draft=DRAFT)
        return await publish_video(store, video, media, draft=DRAFT)

    try:
        await do(Dying(store, changes))
    except Interrupted:
        assert changes < 4
    check_records(store)
    asset = await do(store)
    check_records(store)
    assert asset.sha256 == video.sha256
    assert await store.read_bytes(asset.uri) == video.path.read_bytes()
    assert await do(Dying(store, 0)) == asset


@pytest.mark.parametrize("published", [False, True])
async def test_a_video_that_cannot_be_stored_leaves_nothing_behind(
    store: Store, video: Downloaded, media: Media, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    publish_all = LocalStore.publish_all

    async def fail(self: LocalStore, given: Sequence[NewFile]) -> list[str]:
        assert [file.relative.suffix for file in given] == [".jpg", ".json", ".mp4"]
        await publish_all(self, given if published else given[:-1])
        raise StoreError("the disk is full")

    monkeypatch.setattr(LocalStore, "publish_all", fail)
    with pytest.raises(StoreError, match="full"):
        await publish_video(store, video, media, draft=DRAFT)
    assert files(store) == set()


async def test_a_copy_has_its_own_record(store: Store, video: Downloaded, media: Media) -> None:
    asset = await publish_video(store, video, media, draft=DRAFT)
    draft = DRAFT.model_copy(update={"project": "tea-ad", "shot_id": "pour", "cost_usd": Decimal(0), "take": 2})
    copied = await copy_video(store, asset, draft=draft)
    assert copied.uri == f"{store.url}/tea-ad/pour.take2.0123456789.QWERTY.mp4"
    assert (copied.project, copied.shot_id, copied.take, copied.cost_usd) == ("tea-ad", "pour", 2, Decimal(0))
    assert copied.thumbnail_uri
    assert set(await store.sizes([copied.uri, copied.thumbnail_uri])) == {copied.uri, copied.thumbnail_uri}
    assert await copy_video(store, asset, draft=draft) == copied


async def test_a_copy_of_something_shorter_is_removed(store: Store, video: Downloaded, media: Media) -> None:
    asset = await publish_video(store, video, media, draft=DRAFT)
    Path(store.root, f"{NAME}.mp4").write_bytes(b"short")  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match="5 bytes long instead of"):
        await copy_video(store, asset, draft=DRAFT.model_copy(update={"project": "tea-ad"}))
    assert not any(name.startswith("tea-ad") and name.endswith(".mp4") for name in files(store))


async def test_a_video_without_a_picture_to_show_is_stored_all_the_same(
    store: Store, tmp_path: Path, media: Media
) -> None:
    strange = tmp_path / "strange.mp4"
    strange.write_bytes(b"\0\0\0\x18ftypisom strange")
    asset = await publish_video(store, downloaded(strange), replace(media, thumbnail=None), draft=DRAFT)
    assert asset.thumbnail_uri is None
    assert await store.size(asset.uri) == asset.bytes


@pytest.mark.parametrize("field", ["project", "shot_id", "job_id"])
@pytest.mark.parametrize("name", ["../up", "a/b", "/etc", "..", "a\\b", "a\0b"])
async def test_names_that_lead_elsewhere_are_refused(
    store: Store, video: Downloaded, media: Media, field: str, name: str
) -> None:
    with pytest.raises(InvalidInput):
        await publish_video(store, video, media, draft=DRAFT.model_copy(update={field: name}))
    assert files(store) == set()


def test_a_file_that_is_no_record_is_not_taken_for_one() -> None:
    assert read_sidecar(b"") is None
    assert read_sidecar(b'{"uri": "x"}') is None


async def test_a_video_that_is_exchanged_after_its_check_is_not_published(
    store: Store, video: Downloaded, media: Media, tmp_path: Path
) -> None:
    spool = tmp_path / "spool" / "job.mp4"
    spool.parent.mkdir(mode=0o700)
    spool.write_bytes(video.path.read_bytes())
    checked = Downloaded(spool, video.sha256, video.bytes)
    spool.write_bytes(spool.read_bytes().replace(b"mdat", b"free"))
    with pytest.raises(StoreError, match="changed after it was checked"):
        await publish_video(store, checked, media, draft=DRAFT)
    assert files(store) == set()
    # The next attempt downloads it again, instead of finding a finished file.
    assert not spool.exists()
