"""Responses that are no video, or describe it wrongly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from prefect_video.errors import IncompleteDownload, UnsafeUrl
from tests.support.transfers import MP4, VIDEO, assert_is_video, fetch
from tests.support.web_server import Reply, Request, Web, ranged

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
