"""Redirects, each checked, and secrets that stay with their origin."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import httpx
import pytest

from prefect_video.downloads.transfer import VideoSource
from prefect_video.errors import IncompleteDownload, UnsafeUrl
from tests.support.transfers import VIDEO, assert_is_video, fetch
from tests.support.web_server import Reply, Request, Web, ranged, running_web


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
