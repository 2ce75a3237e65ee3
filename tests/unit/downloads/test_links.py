"""Links that die, move or are not served yet, and hosts that ask for patience."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from prefect_video.downloads.transfer import DownloadSettings, VideoSource
from prefect_video.errors import IncompleteDownload, LinkExpired
from tests.support.transfers import QUICK, VIDEO, assert_is_video, fetch
from tests.support.web_server import Reply, Request, Web, ranged


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
