from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_video.downloads import partial_file
from prefect_video.downloads.transfer import (
    Downloaded,
    DownloadSettings,
    VideoSource,
    download,
    open_download_client,
)
from prefect_video.downloads.url_safety import LinkPolicy
from prefect_video.errors import IncompleteDownload, LinkExpired, StoreError, UnsafeUrl, VideoError
from tests.support.web_server import Reply, Request, Web, ranged, running_web

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
        async with asyncio.timeout(30):
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


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_dead_link_is_replaced_and_the_file_continued(
    web: Web, spool: Path, client: httpx.AsyncClient, status: int
) -> None:
    whole = ranged(VIDEO, breaks=1, after=2**20)

    async def handler(request: Request, reply: Reply) -> None:
        dead = request.path.startswith("/video.mp4") and len(web.requests) > 1
        await (reply.whole(status, {}) if dead else whole(request, reply))

    async def refresh() -> str:
        return web.url("/fresh.mp4?signature=new")

    web.handler = handler
    assert_is_video(await fetch(web, spool, client, refresh=refresh), spool)
    assert web.requests[-1].path.startswith("/fresh.mp4")
    assert web.requests[-1].first_byte == 2**20


async def test_fresh_links_are_asked_for_three_times_at_most(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    fresh: list[str] = []

    async def handler(request: Request, reply: Reply) -> None:
        await reply.whole(403, {})

    async def refresh() -> str:
        fresh.append(web.url(f"/fresh{len(fresh)}"))
        return fresh[-1]

    web.handler = handler
    with pytest.raises(LinkExpired, match="HTTP 403") as caught:
        await fetch(web, spool, client, refresh=refresh, settings=DownloadSettings(backoff_seconds=0.0))
    assert len(fresh) == 3
    assert caught.value.retryable


async def test_without_a_way_to_refresh_a_dead_link_ends_it(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.whole(410, {})

    web.handler = handler
    with pytest.raises(LinkExpired):
        await fetch(web, spool, client)
    assert len(web.requests) == 1


async def test_retry_after_is_obeyed(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    whole = ranged(VIDEO)
    times: list[float] = []

    async def handler(request: Request, reply: Reply) -> None:
        times.append(asyncio.get_running_loop().time())
        busy = len(times) == 1
        await (reply.whole(503, {"Retry-After": "1"}) if busy else whole(request, reply))

    web.handler = handler
    assert_is_video(await fetch(web, spool, client), spool)
    assert times[1] - times[0] >= 1.0


async def test_a_long_retry_after_is_left_to_the_caller(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.whole(429, {"Retry-After": "7200"})

    web.handler = handler
    with pytest.raises(IncompleteDownload) as caught:
        await fetch(web, spool, client)
    assert caught.value.retry_after == 7200
    assert len(web.requests) == 1


NONSENSE: dict[str, tuple[dict[str, str], bytes, str]] = {
    "html": ({"Content-Type": "text/html; charset=utf-8"}, b"<html>Sign in</html>", "text/html"),
    "json": ({"Content-Type": "application/json"}, b'{"error": {}}', "application/json"),
    "no mp4": (MP4, b"<html>under a wrong name</html>", "not an MP4"),
    "empty": (MP4, b"", "ended after 0"),
    "tiny": (MP4, b"abc", "ended after 0"),
    "encoded": ({**MP4, "Content-Encoding": "gzip"}, b"\x1f\x8b" * 20, "gzip-encoded"),
}


@pytest.mark.parametrize("kind", NONSENSE)
async def test_what_is_no_video_is_refused(web: Web, spool: Path, client: httpx.AsyncClient, kind: str) -> None:
    headers, body, message = NONSENSE[kind]

    async def handler(request: Request, reply: Reply) -> None:
        await reply.whole(200, headers, body)

    web.handler = handler
    with pytest.raises(IncompleteDownload, match=message):
        await fetch(web, spool, client)
    assert not spool.exists()
    assert not any(request.first_byte for request in web.requests)


async def test_a_short_body_without_a_length_is_noticed_by_the_promise(
    web: Web, spool: Path, client: httpx.AsyncClient
) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.head(200, MP4)
        await reply.body(VIDEO[: 1000 * len(web.requests)])

    web.handler = handler
    with pytest.raises(IncompleteDownload, match="ended after 3,000 of"):
        await fetch(web, spool, client, expected_bytes=len(VIDEO))


@pytest.mark.parametrize("stated", [len(VIDEO) - 1, len(VIDEO) + 1])
@pytest.mark.parametrize("with_length", [True, False])
async def test_a_size_other_than_stated_is_fetched_and_noted(
    web: Web, spool: Path, client: httpx.AsyncClient, stated: int, with_length: bool
) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.head(200, MP4)
        await reply.body(VIDEO)

    web.handler = ranged(VIDEO) if with_length else handler
    got = await fetch(web, spool, client, expected_bytes=stated)
    assert got.stated_bytes == stated
    assert_is_video(replace(got, stated_bytes=None), spool)
    # Without a length, only a second end at the same byte shows that it is the end of the file.
    assert len(web.requests) == (2 if stated > len(VIDEO) and not with_length else 1)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "aws-chunked"},
        {"Content-Encoding": "none"},
        {"Content-Encoding": "binary"},
        {"Content-Encoding": "UTF-8"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json"},
    ],
)
async def test_headers_that_lie_about_a_whole_video_are_not_believed(
    web: Web, spool: Path, client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.whole(200, MP4 | headers, VIDEO)

    web.handler = handler
    assert_is_video(await fetch(web, spool, client), spool)
    assert len(web.requests) == 1


@pytest.mark.parametrize("head", [b"\x1aE\xdf\xa3\x01\0\0\0", b"\0\0\0\x08free", b"\0\0\0\x08moov"])
async def test_a_video_of_another_kind_is_fetched_whole(
    web: Web, spool: Path, client: httpx.AsyncClient, head: bytes
) -> None:
    web.handler = ranged(head + VIDEO)
    assert (await fetch(web, spool, client)).bytes == len(head + VIDEO)


async def test_a_page_in_place_of_the_rest_does_not_cost_what_is_there(
    web: Web, spool: Path, client: httpx.AsyncClient
) -> None:
    broken = ranged(VIDEO, breaks=1, after=2**20)

    async def handler(request: Request, reply: Reply) -> None:
        if len(web.requests) == 2:
            await reply.whole(200, {"Content-Type": "text/html"}, b"<html>Sign in</html>")
        else:
            await broken(request, reply)

    web.handler = handler
    assert_is_video(await fetch(web, spool, client), spool)
    assert [request.first_byte for request in web.requests] == [0, 2**20, 2**20]


@pytest.mark.parametrize("status", [202, 404, 409, 425])
async def test_a_file_that_is_not_there_yet_is_waited_for(
    web: Web, spool: Path, client: httpx.AsyncClient, status: int
) -> None:
    whole = ranged(VIDEO)

    async def handler(request: Request, reply: Reply) -> None:
        await (whole(request, reply) if len(web.requests) > QUICK.tries + 2 else reply.whole(status, {}))

    web.handler = handler
    patient = replace(QUICK, unready_seconds=60.0, backoff_limit_seconds=0.01)
    assert_is_video(await fetch(web, spool, client, settings=patient), spool)
    web.requests.clear()
    spool.unlink()
    with pytest.raises((IncompleteDownload, LinkExpired), match=str(status)):
        await fetch(web, spool, client)


async def test_a_fresh_link_is_tried_before_a_missing_file_is_waited_for(
    web: Web, spool: Path, client: httpx.AsyncClient
) -> None:
    whole = ranged(VIDEO)

    async def handler(request: Request, reply: Reply) -> None:
        await (whole(request, reply) if request.path == "/fresh" else reply.whole(404, {}))

    async def refresh() -> str:
        return web.url("/fresh")

    web.handler = handler
    patient = replace(QUICK, unready_seconds=60.0)
    assert_is_video(await fetch(web, spool, client, refresh=refresh, settings=patient), spool)
    assert len(web.requests) == 2


@pytest.mark.parametrize("status", [401, 403])
async def test_the_other_place_of_a_video_is_tried_where_the_key_is_not_sent(
    web: Web, spool: Path, client: httpx.AsyncClient, status: int
) -> None:
    whole = ranged(VIDEO)

    async def handler(request: Request, reply: Reply) -> None:
        with_key = request.headers.get("authorization") == "Bearer hush"
        await (whole(request, reply) if with_key and request.path == "/content" else reply.whole(status, {}))

    async def refresh() -> str:
        raise AssertionError("a fresh link leads to the same host")

    web.handler = handler
    content = VideoSource(web.url("/content"), {"Authorization": "Bearer hush"})
    source = VideoSource(web.url("/told"), fallback=content)
    assert_is_video(await fetch(web, spool, client, source=source, refresh=refresh), spool)
    assert [(request.path, "authorization" in request.headers) for request in web.requests] == [
        ("/told", False),
        ("/content", True),
    ]


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


@pytest.mark.parametrize("declared", [True, False])
async def test_a_video_larger_than_the_limit_is_refused(
    web: Web, spool: Path, client: httpx.AsyncClient, declared: bool
) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.head(200, MP4 | ({"Content-Length": str(len(VIDEO))} if declared else {}))
        await reply.body(VIDEO)

    web.handler = handler
    with pytest.raises(UnsafeUrl, match="1,000,000"):
        await fetch(web, spool, client, max_bytes=1_000_000)
    assert len(web.requests) == 1


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://10.0.0.8/secret", "private"),
        ("http://169.254.169.254/latest/meta-data", "cloud metadata"),
        ("http://[::1]/x?token=hush", None),
        ("file:///etc/passwd", "scheme 'file'"),
        ("ftp://example.com/x", "scheme 'ftp'"),
        ("http://user:hush@127.0.0.1/x", "user info"),
        ("data:video/mp4;base64,AAAA", "no readable URL"),
        ("http://[hush/x", "neither a name nor an address"),
    ],
)
async def test_redirects_are_checked_one_by_one(
    web: Web, spool: Path, client: httpx.AsyncClient, target: str, reason: str | None
) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.whole(302, {"Location": target if request.path == "/two" else "/two"})

    web.handler = handler
    # Another loopback address is of the endpoint's kind, so only the connection fails there.
    expected = UnsafeUrl if reason else IncompleteDownload
    with pytest.raises(expected, match=reason) as caught:
        await fetch(web, spool, client)
    assert "hush" not in str(caught.value)


async def test_redirects_end(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.whole(307, {"Location": f"{request.path}x"})

    web.handler = handler
    with pytest.raises(UnsafeUrl, match="more than 5 redirects"):
        await fetch(web, spool, client)
    assert len(web.requests) == 6


async def test_secret_headers_stay_with_their_origin(web: Web, spool: Path, client: httpx.AsyncClient) -> None:
    async with running_web() as cdn:
        cdn.handler = ranged(VIDEO)

        async def handler(request: Request, reply: Reply) -> None:
            away = cdn.url("/video.mp4") if request.path == "/here" else "/here"
            await reply.whole(302, {"Location": away, "Set-Cookie": "session=hush; Path=/"})

        web.handler = handler
        source = VideoSource(web.url("/content"), {"Authorization": "Bearer sk-hush"})
        assert_is_video(await fetch(web, spool, client, source=source), spool)
        assert [request.headers.get("authorization") for request in web.requests] == ["Bearer sk-hush"] * 2
        assert "authorization" not in cdn.requests[0].headers
        assert "cookie" not in cdn.requests[0].headers
    assert "hush" not in repr(source)


async def test_a_key_that_the_host_quotes_goes_no_further(
    web: Web, spool: Path, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.body(b"HTTP/1.1 200 OK\r\nsk-hush/12 is no header\r\n\r\n")

    caplog.set_level(logging.INFO, "prefect_video")
    web.handler = handler
    source = VideoSource(web.url("/content"), {"Authorization": "Bearer sk-hush/12"})
    with pytest.raises(IncompleteDownload, match=r"illegal header line.*\[key\]") as caught:
        await fetch(web, spool, client, source=source)
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "hush" not in shown


async def test_secret_headers_do_not_follow_a_fresh_link_elsewhere(
    web: Web, spool: Path, client: httpx.AsyncClient
) -> None:
    async with running_web() as cdn:
        cdn.handler = ranged(VIDEO)

        async def handler(request: Request, reply: Reply) -> None:
            await reply.whole(404, {})

        async def refresh() -> str:
            return cdn.url()

        web.handler = handler
        source = VideoSource(web.url("/content"), {"Authorization": "Bearer sk-hush"})
        assert_is_video(await fetch(web, spool, client, source=source, refresh=refresh), spool)
        assert "authorization" not in cdn.requests[0].headers


async def test_a_link_is_never_logged_whole(
    web: Web, spool: Path, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    web.handler = ranged(VIDEO, breaks=1, after=2**20)
    await fetch(web, spool, client)
    assert "/video.mp4" in caplog.text
    assert "hush" not in caplog.text


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
