"""Responses that break the rules of HTTP, and the uvicorn protocol that gives them access to the TCP connection."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, cast

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

SLOW_STEPS_PER_SECOND = 20
"""Pieces a second in which a slow body is sent: small enough to trickle, large enough to keep the rate."""


class ReachableProtocol(H11Protocol):
    """Uvicorn protocol that exposes the connection's transport in the request's `state`, without an access log."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport, and disable Nagle's algorithm.

        asyncio leaves it on for sockets that were bound by hand, which delays every answer by 40 ms.
        """
        super().connection_made(transport)
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, "transport": transport}


def _get_transport(scope: Scope) -> asyncio.Transport:
    return cast(asyncio.Transport, scope["state"]["transport"])


async def _wait_for_disconnect(receive: Receive) -> None:
    """Wait until the connection has ended."""
    while (await receive())["type"] != "http.disconnect":
        continue


async def _reset_connection(scope: Scope, receive: Receive) -> None:
    transport = _get_transport(scope)
    connection: socket.socket | None = transport.get_extra_info("socket")
    # A linger time of zero makes the kernel send RST instead of FIN; a client that has left took the socket with it.
    if connection is not None and not transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await _wait_for_disconnect(receive)


class ResetResponse(Response):
    """Response that resets the TCP connection instead of answering."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reset the connection."""
        await _reset_connection(scope, receive)


class HungResponse(Response):
    """Response that leaves the client waiting for a time, then resets the connection."""

    def __init__(self, seconds: float, closing: asyncio.Event) -> None:
        super().__init__()
        self._seconds = seconds
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait until the time has passed, the client disconnects or the emulator closes; then reset."""
        waits = [asyncio.ensure_future(_wait_for_disconnect(receive)), asyncio.ensure_future(self._closing.wait())]
        try:
            await asyncio.wait(waits, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        await _reset_connection(scope, receive)


class SlowResponse(Response):
    """Wrapper that sends a response's body at a given rate in bytes per second."""

    def __init__(self, inner: Response, bytes_per_second: int, closing: asyncio.Event) -> None:
        super().__init__()
        self._inner = inner
        self._step = max(1, bytes_per_second // SLOW_STEPS_PER_SECOND)
        self._step_seconds = self._step / bytes_per_second
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body in small pieces; drop the connection when the emulator closes."""

        async def send_slowly(message: Message) -> None:
            body = message.get("body", b"")
            if message["type"] != "http.response.body" or not body:
                await send(message)
                return
            more = message.get("more_body", False)
            for start in range(0, len(body), self._step):
                await asyncio.sleep(self._step_seconds)
                if self._closing.is_set():
                    _get_transport(scope).abort()
                last = start + self._step >= len(body)
                piece = {**message, "body": body[start : start + self._step], "more_body": more or not last}
                await send(piece)

        await self._inner(scope, receive, send_slowly)


class TruncatedResponse(Response):
    """Wrapper that closes the connection after a share of the announced body."""

    def __init__(self, inner: Response, fraction: float) -> None:
        super().__init__()
        self._inner = inner
        self._fraction = fraction

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers unchanged and only the first part of the body."""
        left = 0  # bytes of the body still to send; set once the headers announce its length

        async def send_part(message: Message) -> None:
            nonlocal left
            if message["type"] == "http.response.start":
                length = dict(message["headers"]).get(b"content-length", b"0")
                left = int(int(length) * self._fraction)
                await send(message)
                return
            body = message.get("body", b"")[:left]
            left -= len(body)
            if body:
                await send({**message, "body": body, "more_body": True})

        await self._inner(scope, receive, send_part)
        _get_transport(scope).close()
        await _wait_for_disconnect(receive)
