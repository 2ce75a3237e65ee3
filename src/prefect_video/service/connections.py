"""Deadlines and limits of connections: requests that are never finished must not keep webhooks out.

uvicorn has a deadline for idle connections only; here each request has one for its header and one for its body, and a
new connection takes the place of the oldest that has not sent its request.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import socket
from collections.abc import Callable
from typing import Any, ClassVar, Final, Literal

import h11
import uvicorn
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from prefect_video.service.problems import build_problem, build_response
from prefect_video.service.settings import ServiceSettings

logger = logging.getLogger(__name__)

_SPARE_FILES: Final = 128
"""Open files that are left to the ledger, to downloads and to everything else."""
_LEAST_CONNECTIONS: Final = 16
_BACKLOG: Final = 64
"""Connections that are accepted at once, before any can be closed."""

_Phase = Literal["header", "body"]


class ConnectionLimits:
    """The open connections of one server, and those of them that have not sent a whole request.

    Args:
        settings: The limit of connections, and the deadlines.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        allowed = settings.connections if soft == resource.RLIM_INFINITY else soft - _SPARE_FILES
        self.limit = max(_LEAST_CONNECTIONS, min(settings.connections, allowed))
        self.seconds: dict[_Phase, float] = {"header": settings.header_seconds, "body": settings.body_seconds}
        self.stopping = asyncio.Event()
        self._open: set[GuardedProtocol] = set()
        # In the order in which they began to be waited for.
        self._receiving: dict[GuardedProtocol, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: GuardedProtocol) -> None:
        """Count a new connection; where there are too many, the oldest one without a whole request is closed."""
        if len(self._open) >= self.limit:
            oldest = next(iter(self._receiving), connection)
            logger.warning("more than %d connections: one that has not sent a request is closed", self.limit)
            self._close(oldest)
            if oldest is connection:
                return
        self._open.add(connection)

    def wait_for(self, connection: GuardedProtocol, phase: _Phase | None) -> None:
        """Note which part of a request a connection is to send; None where it has sent a whole one."""
        self._receiving.pop(connection, None)
        if phase is not None and connection in self._open:
            self._receiving[connection] = None

    def expire(self, connection: GuardedProtocol, phase: _Phase) -> None:
        """Close a connection that has not sent a part of its request in time."""
        logger.warning("a connection was closed: no whole %s within %g s", phase, self.seconds[phase])
        self._close(connection)

    def forget(self, connection: GuardedProtocol) -> None:
        """Stop counting a connection that has ended."""
        self._open.discard(connection)
        self._receiving.pop(connection, None)

    def _close(self, connection: GuardedProtocol) -> None:
        # Counted no more at once: asyncio reports its end only later.
        self.forget(connection)
        connection.transport.abort()


class GuardedProtocol(H11Protocol):
    """Uvicorn protocol of one connection, with deadlines for each part of a request."""

    limits: ClassVar[ConnectionLimits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._phase: _Phase | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and wait for a header."""
        super().connection_made(transport)
        self.limits.admit(self)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def shutdown(self) -> None:
        """End with the current answer, as the server does."""
        self.limits.stopping.set()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self.limits.forget(self)
        self._cancel_deadline()

    def _watch(self) -> None:
        """Begin a new deadline where another part of a request is waited for than before."""
        phase = self._find_phase()
        if phase == self._phase:
            return
        self._phase = phase
        self._cancel_deadline()
        self.limits.wait_for(self, phase)
        if phase is not None:
            self._deadline = self.loop.call_later(self.limits.seconds[phase], self.limits.expire, self, phase)

    def _find_phase(self) -> _Phase | None:
        if self.transport.is_closing():
            return None
        if self.conn.their_state is h11.IDLE:
            return "header"
        return "body" if self.conn.their_state is h11.SEND_BODY else None

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class RoomForWebhooks:
    """ASGI middleware that answers 503 to other requests before they take what webhooks need."""

    def __init__(self, app: ASGIApp, *, others: int, stopping: asyncio.Event) -> None:
        self._app = app
        self._stopping = stopping
        self._left = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, if there is room for it."""
        # Known to answers that would not end by themselves, and that a server waits for.
        scope["prefect_video.stopping"] = self._stopping
        if scope["type"] != "http" or scope["path"].startswith(("/webhooks/", "/webhook/")):
            await self._app(scope, receive, send)
        elif self._left <= 0:
            logger.warning("too many requests at once: one that is no webhook is answered 503")
            refusal = build_problem(HTTPException(503, "too many requests at once"))
            await build_response(refusal, {"Retry-After": "1"})(scope, receive, send)
        else:
            self._left -= 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._left += 1


def build_server_config(app: ASGIApp, settings: ServiceSettings) -> uvicorn.Config:
    """Build the configuration of a server whose connections are limited."""
    limits = ConnectionLimits(settings)
    protocol = type("Connection", (GuardedProtocol,), {"limits": limits})
    return uvicorn.Config(
        RoomForWebhooks(app, others=max(1, limits.limit - settings.webhook_connections), stopping=limits.stopping),
        http=protocol,
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=settings.idle_seconds,
        backlog=_BACKLOG,
    )


class Server(uvicorn.Server):
    """A server that announces itself once it accepts requests: from then on a signal ends it in order.

    Args:
        config: What `build_server_config` has built.
        announce: Says where it serves.
    """

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept requests."""
        await super().startup(sockets)
        if self.started:
            # Modules loaded by now stay; scanning them at each collection would delay deliveries.
            gc.collect()
            gc.freeze()
            self._announce()
