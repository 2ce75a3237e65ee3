"""A folder: atomic, whatever interrupts it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from prefect_video.errors import StoreError
from prefect_video.storage import local, open_store

TARGET = PurePosixPath("coffee-ad/opening.mp4")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool.mp4"
    path.write_bytes(os.urandom(4 * 2**20))
    return path


async def test_a_cancelled_copy_leaves_nothing(tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    real = os.fsync

    def fsync(handle: int) -> None:
        begun.set()
        go_on.wait(10)
        real(handle)

    monkeypatch.setattr(local.os, "fsync", fsync)
    store = open_store(str(tmp_path / "store"))
    task = asyncio.create_task(store.publish(spool, TARGET, content_type="video/mp4"))
    await asyncio.to_thread(begun.wait, 10)
    assert [name.endswith(".unfinished") for name in files(tmp_path / "store")] == [True]
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files(tmp_path / "store") == []


@pytest.mark.parametrize(("call", "number"), [("fsync", 28), ("replace", 5)])
async def test_a_failed_copy_leaves_what_was_there(
    tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    store = open_store(str(tmp_path / "store"))
    older = tmp_path / "older.mp4"
    older.write_bytes(b"older")
    uri = await store.publish(older, TARGET, content_type="video/mp4")

    def fails(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local.os, call, fails)
    with pytest.raises(StoreError, match=r"opening\.mp4: (the disk is full|Input/output error)"):
        await store.publish(spool, TARGET, content_type="video/mp4")
    assert files(tmp_path / "store") == [str(TARGET)]
    assert await store.read_bytes(uri) == b"older"


@pytest.mark.slow
async def test_readers_never_see_half_a_file(tmp_path: Path, spool: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    contents = [bytes([n]) * 3_000_000 for n in range(8)]
    ended = threading.Event()

    def read() -> Sequence[bytes]:
        seen = []
        while not ended.is_set():
            try:
                seen.append((tmp_path / "store" / TARGET).read_bytes())
            except FileNotFoundError:
                continue
        return seen

    reader = asyncio.create_task(asyncio.to_thread(read))
    for content in contents:
        spool.write_bytes(content)
        await store.publish(spool, TARGET, content_type="video/mp4")
    ended.set()
    seen = await reader
    assert seen
    assert set(seen) <= set(contents)


async def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path, spool: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = open_store(str(tmp_path / "file"))
    with pytest.raises(StoreError, match="file: a"):
        await store.check()
    with pytest.raises(StoreError, match="use another folder"):
        await store.publish(spool, TARGET, content_type="video/mp4")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
async def test_a_folder_of_another_user_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="no permission"):
        await open_store(str(tmp_path / "store")).check()


async def test_only_old_unfinished_files_are_swept(tmp_path: Path, spool: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    await store.publish(spool, TARGET, content_type="video/mp4")
    folder = tmp_path / "store" / "coffee-ad"
    for name in (".old.mp4.abc.unfinished", ".new.mp4.abc.unfinished", ".old.txt"):
        (folder / name).write_text("x")
    long_ago = time.time() - 90_000
    for name in (".old.mp4.abc.unfinished", ".old.txt", "opening.mp4"):
        os.utime(folder / name, (long_ago, long_ago))
    assert await store.remove_stale_uploads() == 1
    assert files(folder) == [".new.mp4.abc.unfinished", ".old.txt", "opening.mp4"]
    assert await open_store(str(tmp_path / "never-made")).remove_stale_uploads() == 0


async def test_a_store_that_is_not_there_is_trouble_and_not_an_empty_store(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "mounted"))
    with pytest.raises(StoreError, match="mount it"):
        await store.sizes([store.uri(PurePosixPath("ad/a.mp4"))])
    (tmp_path / "mounted").mkdir()
    assert set(await store.sizes([store.uri(PurePosixPath("ad/a.mp4"))])) == set()
