"""S3 server with faults: a relay to the real one that refuses what the test says, as other servers and keys do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, web
from multidict import CIMultiDict
from yarl import URL

from tests.support.s3_server import S3Server

Refusal = Callable[[web.Request], tuple[int, str] | None]
"""Function from a request to the status and code of the error that it gets; None for those that are passed on."""


def no_content_md5(request: web.Request) -> tuple[int, str] | None:
    """Refuse every request with the header, as servers without it do."""
    return (501, "NotImplemented") if "Content-MD5" in request.headers else None


def no_writing(request: web.Request) -> tuple[int, str] | None:
    """Refuse what a key may not do that may read only."""
    return (403, "AccessDenied") if request.method in ("PUT", "POST") else None


def no_reading(request: web.Request) -> tuple[int, str] | None:
    """Refuse what a key may not do that may write only; a missing object is refused too, as without s3:ListBucket."""
    return (403, "AccessDenied") if request.method in ("GET", "HEAD") else None


def no_parts(request: web.Request) -> tuple[int, str] | None:
    """Refuse uploads in parts."""
    return (501, "NotImplemented") if "uploads" in request.query else None


def no_deleting(request: web.Request) -> tuple[int, str] | None:
    """Refuse what a key without s3:DeleteObject may not do."""
    return (403, "AccessDenied") if request.method == "DELETE" else None


@dataclass
class FaultyS3:
    """Running relay.

    Attributes:
        options: Options for `open_store`.
        refuse: The fault.
        requests: Method, path with query, and headers of every request.
    """

    options: dict[str, Any]
    refuse: Refusal
    requests: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)


@asynccontextmanager
async def serve_faulty_s3(server: S3Server, refuse: Refusal) -> AsyncIterator[FaultyS3]:
    """Run a relay to a server on a free loopback port until the block ends."""
    faulty = FaultyS3(dict(server.options), refuse)

    async def relay(request: web.Request) -> web.Response:
        body = await request.read()
        faulty.requests.append((request.method, request.path_qs, request.headers))
        if refused := refuse(request):
            status, code = refused
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>refused</Message></Error>"
            return web.Response(status=status, text="" if request.method == "HEAD" else text)
        # The signature is over the request as it is, with its Host.
        headers = CIMultiDict(request.headers)
        url = URL(server.endpoint_url + request.raw_path, encoded=True)
        async with client.request(request.method, url, headers=headers, data=body) as response:
            passed = {name: value for name, value in response.headers.items() if name != "Content-Length"}
            if request.method == "HEAD":
                passed["Content-Length"] = response.headers.get("Content-Length", "0")
            return web.Response(status=response.status, headers=passed, body=await response.read())

    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", relay)
    runner = web.AppRunner(app)
    async with ClientSession(auto_decompress=False) as client:
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            faulty.options["endpoint_url"] = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield faulty
        finally:
            await runner.cleanup()
