"""HTTP server whose responses, and their failures, are written by each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """Received request; header names are in lower case."""

    path: str
    headers: Mapping[str, str]

    @property
    def first_byte(self) -> int:
        """First byte of the requested range; 0 without a range."""
        requested = self.headers.get("range", "")
        return int(requested.removeprefix("bytes=").partition("-")[0]) if requested else 0


class Reply:
    """Writer of one response."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def head(self, status: int, headers: Mapping[str, str | int]) -> None:
        """Send the status and headers."""
        lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers.items())]
        await self.body("\r\n".join([*lines, "Connection: close", "", ""]).encode())

    async def body(self, content: bytes) -> None:
        """Send bytes of the body."""
        self._writer.write(content)
        await self._writer.drain()

    async def whole(self, status: int, headers: Mapping[str, str | int], content: bytes = b"") -> None:
        """Send a complete response."""
        await self.head(status, {"Content-Length": len(content), **headers})
        await self.body(content)

    def reset(self) -> None:
        """Break the connection."""
        self._writer.transport.abort()


Handler = Callable[[Request, Reply], Awaitable[None]]


@dataclass
class Web:
    """Running server.

    Attributes:
        port: Its port.
        handler: Handler of every request; set it in the test.
        requests: Received requests, in order.
        connections: The tasks of open connections.
    """

    port: int = 0
    handler: Handler | None = None
    requests: list[Request] = field(default_factory=list)
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, path: str = "/video.mp4", host: str = "127.0.0.1") -> str:
        """Return the URL of a path."""
        return f"http://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection."""
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        task.add_done_callback(self.connections.discard)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in head[1:] if line)
        request = Request(head[0].split(" ")[1], {k.strip().lower(): v.strip() for k, _, v in pairs})
        self.requests.append(request)
        assert self.handler is not None
        await self.handler(request, Reply(writer))


@asynccontextmanager
async def running_web(port: int = 0) -> AsyncIterator[Web]:
    """Run a server on a loopback port, by default a free one."""
    web = Web()
    server = await asyncio.start_server(web.serve, "127.0.0.1", port)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()
        # Since Python 3.12 `wait_closed` waits for open connections, and some handlers never end.
        open_connections = list(web.connections)
        for task in open_connections:
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)
        await server.wait_closed()


def ranged(content: bytes, *, etag: str | None = '"v1"', breaks: int = 0, after: int = 0) -> Handler:
    """Return a handler that serves a file with ranges; the first responses break off.

    Args:
        content: The file.
        etag: Its entity tag.
        breaks: Number of responses that break off.
        after: Number of bytes that each of those sends.
    """
    left = breaks

    async def handler(request: Request, reply: Reply) -> None:
        nonlocal left
        start = request.first_byte
        if request.headers.get("if-range", etag) != etag:
            start = 0
        tag = {"ETag": etag} if etag else {}
        if start >= len(content):
            await reply.whole(416, {"Content-Range": f"bytes */{len(content)}", **tag})
            return
        part = content[start:]
        headers: dict[str, str | int] = {"Content-Type": "video/mp4", "Accept-Ranges": "bytes", **tag}
        headers["Content-Length"] = len(part)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        await reply.head(206 if start else 200, headers)
        if left > 0:
            left -= 1
            await reply.body(part[:after])
            return
        await reply.body(part)

    return handler
