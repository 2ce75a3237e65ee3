"""Transfer of a video: in pieces, after breaks, by several processes, slowly, to a disk that fills up."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from prefect_video.downloads import partial_file
from prefect_video.downloads.transfer import DownloadSettings, open_download_client
from prefect_video.errors import IncompleteDownload, StoreError, VideoError
from tests.support.transfers import MP4, QUICK, VIDEO, assert_is_video, fetch
from tests.support.web_server import Reply, Request, Web, ranged, running_web


async def test_a_video_is_fetched_whole_with_digest_and_progress(
    web: Web, spool: Path, client: httpx.AsyncClient
) -> None:
    web.handler = ranged(VIDEO)
    seen: list[tuple[int, int | None]] = []
    got = await fetch(
        web, spool, client, expected_bytes=len(VIDEO), on_progress=lambda done, all_: seen.append((done, all_))
    )
    assert_is_video(got, spool)
    assert seen[-1] == (len(VIDEO), len(VIDEO))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) <= 5
    assert web.requests[0].headers["accept-encoding"] == "identity"
    assert web.requests[0].headers["host"] == f"127.0.0.1:{web.port}"
    assert "authorization" not in web.requests[0].headers


async def test_a_broken_connection_is_continued_where_it_broke(
    web: Web, spool: Path, client: httpx.AsyncClient
) -> None:
    # Five breaks with three tries allowed: a try that brings something new does not count.
    web.handler = ranged(VIDEO, breaks=5, after=500_000)
    assert_is_video(await fetch(web, spool, client), spool)
    assert [request.first_byte for request in web.requests] == [500_000 * n for n in range(6)]
    assert {request.headers.get("if-range") for request in web.requests[1:]} == {'"v1"'}


async def test_tries_that_bring_nothing_end(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    web.handler = ranged(VIDEO, breaks=99, after=1_000)
    with pytest.raises(IncompleteDownload, match=r"broke off at byte") as caught:
        await fetch(web, spool, client)
    assert len(web.requests) == QUICK.tries
    assert "hush" not in str(caught.value)
    assert not spool.exists()


async def test_a_host_that_is_away_is_waited_for(
    spool: Path, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_web() as web:
        pass
    patient = replace(QUICK, outage_seconds=60.0, backoff_limit_seconds=0.01)
    with caplog.at_level(logging.INFO, "prefect_video.downloads.transfer"):
        fetching = asyncio.create_task(fetch(web, spool, client, settings=patient))
        async with asyncio.timeout(60):
            while len(caplog.records) <= QUICK.tries:
                await asyncio.sleep(0.01)
        async with running_web(web.port) as back:
            back.handler = ranged(VIDEO)
            assert_is_video(await fetching, spool)


async def test_nor_is_it_waited_for_without_end(spool: Path, client: httpx.AsyncClient) -> None:
    async with running_web() as web:
        pass
    with pytest.raises(IncompleteDownload, match="broke off at byte 0"):
        await fetch(web, spool, client)


async def test_a_changed_file_is_fetched_from_its_start(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    older = ranged(b"\0\0\0\x18ftypolder" + b"x" * 2**21, etag='"v0"', breaks=1, after=2**20)
    newer = ranged(VIDEO)

    async def handler(request: Request, reply: Reply) -> None:
        await (older if len(web.requests) == 1 else newer)(request, reply)

    web.handler = handler
    assert_is_video(await fetch(web, spool, client), spool)
    assert web.requests[1].headers["if-range"] == '"v0"'


@pytest.mark.parametrize("lie", ["other etag", "other total", "other start", "no content-range"])
async def test_a_part_that_does_not_fit_is_not_spliced_in(
    web: Web, spool: Path, client: httpx.AsyncClient, lie: str
) -> None:
    honest = ranged(VIDEO, breaks=1, after=2**20)

    async def handler(request: Request, reply: Reply) -> None:
        start, size = request.first_byte, len(VIDEO)
        if not start:
            return await honest(request, reply)
        total = size + 1 if lie == "other total" else size
        first = start + 1 if lie == "other start" else start
        headers = {"ETag": '"v2"' if lie == "other etag" else '"v1"'}
        if lie != "no content-range":
            headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
        await reply.whole(206, {**MP4, **headers}, b"y" * (total - first))

    web.handler = handler
    assert_is_video(await fetch(web, spool, client), spool)
    assert [request.first_byte > 0 for request in web.requests] == [False, True, False]


async def test_a_range_that_was_not_requested_replaces_what_is_there(
    web: Web, spool: Path, client: httpx.AsyncClient
) -> None:
    # Without a tag and a length, the part that the first answer leaves is of no known version.
    async def handler(request: Request, reply: Reply) -> None:
        assert not request.first_byte
        if len(web.requests) == 1:
            await reply.head(200, {**MP4, "Transfer-Encoding": "chunked"})
            await reply.body(b"%x\r\n" % 2**20 + VIDEO[: 2**20] + b"\r\n")
        else:
            await reply.whole(206, {**MP4, "Content-Range": f"bytes 0-{len(VIDEO) - 1}/*"}, VIDEO)

    web.handler = handler
    assert_is_video(await fetch(web, spool, client), spool)
    assert len(web.requests) == 2


async def test_a_server_without_ranges_starts_over(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.head(200, {**MP4, "Content-Length": len(VIDEO)})
        await reply.body(VIDEO if len(web.requests) > 1 else VIDEO[: 2**20])

    web.handler = handler
    assert_is_video(await fetch(web, spool, client), spool)


async def test_another_process_goes_on_where_a_dead_one_stopped(
    web: Web, spool: Path, client: httpx.AsyncClient
) -> None:
    web.handler = ranged(VIDEO, breaks=99, after=2**20)
    with pytest.raises(IncompleteDownload):
        await fetch(web, spool, client, settings=DownloadSettings(tries=1, backoff_seconds=0.0))
    web.handler, web.requests = ranged(VIDEO), []
    assert_is_video(await fetch(web, spool, client), spool)
    assert web.requests[0].first_byte >= 2**20


async def test_a_piece_of_unknown_origin_is_not_continued(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    spool.parent.mkdir()
    spool.with_name(spool.name + ".part").write_bytes(b"from somewhere else")
    web.handler = ranged(VIDEO)
    assert_is_video(await fetch(web, spool, client), spool)
    assert web.requests[0].first_byte == 0


async def test_a_complete_piece_needs_no_more_bytes(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    spool.parent.mkdir()
    spool.with_name(spool.name + ".part").write_bytes(VIDEO)
    notes = {"etag": '"v1"', "last_modified": None, "total": len(VIDEO)}
    spool.with_name(spool.name + ".part.json").write_text(json.dumps(notes))
    web.handler = ranged(VIDEO)
    assert_is_video(await fetch(web, spool, client), spool)
    assert len(web.requests) == 1


async def test_a_piece_longer_than_the_file_is_thrown_away(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    spool.parent.mkdir()
    spool.with_name(spool.name + ".part").write_bytes(VIDEO + b"more")
    notes = {"etag": '"v1"', "last_modified": None, "total": len(VIDEO) + 9}
    spool.with_name(spool.name + ".part.json").write_text(json.dumps(notes))
    web.handler = ranged(VIDEO)
    assert_is_video(await fetch(web, spool, client), spool)


async def test_a_finished_file_is_taken_as_it_is(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    web.handler = ranged(VIDEO)
    await fetch(web, spool, client)
    again = await fetch(web, spool, client)
    assert again.was_finished
    assert_is_video(replace(again, was_finished=False), spool)
    assert len(web.requests) == 1


async def test_a_finished_file_of_the_wrong_size_is_fetched_anew(
    web: Web, spool: Path, client: httpx.AsyncClient
) -> None:
    spool.parent.mkdir()
    spool.write_bytes(b"\0\0\0\x18ftyp short")
    web.handler = ranged(VIDEO)
    assert_is_video(await fetch(web, spool, client, expected_bytes=len(VIDEO)), spool)


async def test_two_downloads_do_not_write_one_file(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    whole = ranged(VIDEO)

    async def handler(request: Request, reply: Reply) -> None:
        begun.set()
        await go_on.wait()
        await whole(request, reply)

    web.handler = handler
    first = asyncio.create_task(fetch(web, spool, client, settings=DownloadSettings()))
    await begun.wait()
    with pytest.raises(IncompleteDownload, match="another download"):
        await fetch(web, spool, client)
    go_on.set()
    assert_is_video(await first, spool)


async def test_a_cancelled_download_can_be_continued(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    there = asyncio.Event()

    async def stalls(request: Request, reply: Reply) -> None:
        await reply.head(200, {**MP4, "Content-Length": len(VIDEO), "ETag": '"v1"'})
        await reply.body(VIDEO[: 2**21])
        await asyncio.Event().wait()

    web.handler = stalls
    task = asyncio.create_task(
        fetch(web, spool, client, on_progress=lambda *_: there.set(), settings=DownloadSettings())
    )
    await there.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not spool.exists()
    web.handler = ranged(VIDEO)
    assert_is_video(await fetch(web, spool, client), spool)
    assert web.requests[-1].first_byte >= 2**20


async def test_a_stalled_body_is_given_up_and_continued(web: Web, spool: Path) -> None:
    whole = ranged(VIDEO)

    async def handler(request: Request, reply: Reply) -> None:
        if len(web.requests) > 1:
            return await whole(request, reply)
        await reply.head(200, {**MP4, "Content-Length": len(VIDEO), "ETag": '"v1"'})
        await reply.body(VIDEO[: 2**20])
        await asyncio.Event().wait()

    web.handler = handler
    async with open_download_client(QUICK, trust_env=False) as impatient:
        assert_is_video(await fetch(web, spool, impatient), spool)
    assert web.requests[1].first_byte > 0


DRIPPING = replace(QUICK, tries=3, min_bytes_per_second=1_000_000, speed_window_seconds=0.05, grace_seconds=60.0)


async def test_a_download_that_drips_steps_aside_and_goes_on(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    whole = ranged(VIDEO)

    async def handler(request: Request, reply: Reply) -> None:
        if aside:
            return await whole(request, reply)
        await reply.head(200, {**MP4, "ETag": '"v1"', "Content-Length": len(VIDEO)})
        for start in range(0, len(VIDEO), 100):
            await reply.body(VIDEO[start : start + 100])
            await asyncio.sleep(0.01)

    async def step_aside() -> None:
        aside.append(spool.with_name("gen_1.mp4.part").stat().st_size)

    aside: list[int] = []
    web.handler = handler
    assert_is_video(await fetch(web, spool, client, step_aside=step_aside, settings=DRIPPING), spool)
    # Nothing that had arrived is fetched again.
    assert web.requests[1].first_byte == aside[0] > 0


async def test_a_download_that_only_drips_ends_by_its_size(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        start = request.first_byte
        tail = {"Content-Range": f"bytes {start}-{len(VIDEO) - 1}/{len(VIDEO)}"} if start else {}
        await reply.head(206 if start else 200, {**MP4, **tail, "ETag": '"v1"', "Content-Length": len(VIDEO) - start})
        while True:
            # Enough to count as progress each time, and less than the least speed.
            await reply.body(VIDEO[start : start + 300_000])
            start += 300_000
            await asyncio.sleep(0.35)

    web.handler = handler
    quick = replace(DRIPPING, min_bytes_per_second=3_000_000, speed_window_seconds=0.3, grace_seconds=-0.5)
    with pytest.raises(IncompleteDownload, match=r"too slow at byte .* continued by the next run"):
        await fetch(web, spool, client, settings=quick)
    assert len(web.requests) == 2
    assert list(spool.parent.glob("*.part"))


async def test_a_full_disk_says_so(
    web: Web, spool: Path, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.handler = ranged(VIDEO)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1_000})())
    with pytest.raises(StoreError, match=r"1,000 are free"):
        await fetch(web, spool, client)


async def test_a_disk_that_fills_up_says_so(
    web: Web, spool: Path, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(file: object, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(partial_file, "_write_all", fill_up)
    web.handler = ranged(VIDEO)
    with pytest.raises(StoreError, match=r"gen_1.mp4: the disk is full"):
        await fetch(web, spool, client)


async def test_a_spool_folder_that_is_a_file_says_so(web: Web, tmp_path: Path, client: httpx.AsyncClient) -> None:
    (tmp_path / "spool").write_text("a file")
    web.handler = ranged(VIDEO)
    with pytest.raises(StoreError, match=str(tmp_path)):
        await fetch(web, tmp_path / "spool" / "gen_1.mp4", client)
    assert not web.requests


async def test_a_refused_connection_is_a_broken_download(spool: Path, client: httpx.AsyncClient) -> None:
    web = Web(port=9)
    with pytest.raises(IncompleteDownload) as caught:
        await fetch(web, spool, client)
    assert isinstance(caught.value, VideoError)
    assert "hush" not in str(caught.value)


GIGABYTE = """
import asyncio, resource, sys
from pathlib import Path
from prefect_video.downloads.transfer import VideoSource, download, open_download_client
from prefect_video.downloads.url_safety import LinkPolicy

def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])

async def main(warm, url, spool):
    async with open_download_client(trust_env=False) as client:
        async def get(url, name):
            return await download(
                VideoSource(url), Path(spool) / name, client=client, policy=LinkPolicy(trusted_host="127.0.0.1")
            )
        await get(warm, "warm.mp4")
        before = peak()
        got = await get(url, "large.mp4")
        print(got.bytes, peak() - before)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory from /proc")
async def test_a_gigabyte_adds_less_than_64_megabytes_of_memory(web: Web, tmp_path: Path) -> None:
    block = VIDEO[: 2**20]

    async def handler(request: Request, reply: Reply) -> None:
        blocks = 1024 if "large" in request.path else 3
        await reply.head(200, {**MP4, "Content-Length": blocks * len(block)})
        for _ in range(blocks):
            await reply.body(block)

    web.handler = handler
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        GIGABYTE,
        web.url("/warm.mp4"),
        web.url("/large.mp4"),
        str(tmp_path),
        stdout=subprocess.PIPE,
    )
    out, _ = await process.communicate()
    size, added_kib = map(int, out.split())
    (tmp_path / "large.mp4").unlink()
    assert size == 2**30
    assert added_kib < 64 * 1024
