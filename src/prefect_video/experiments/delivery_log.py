"""Receiver of the webhooks of an experiment: it verifies each delivery, notes when it came, and acts on none."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from prefect_video.errors import InvalidInput, ProviderUnavailable, VideoError
from prefect_video.generations import is_progress_event
from prefect_video.providers import Provider

logger = logging.getLogger(__name__)

_LIMIT_BYTES: Final = 65_536


class Delivery(NamedTuple):
    """One verified delivery of the end of a generation.

    Attributes:
        event_id: Id of the event, the same for each repetition.
        generation_id: The generation.
        received_at: When it came.
    """

    event_id: str
    generation_id: str
    received_at: datetime


@dataclass
class DeliveryLog:
    """The deliveries that came, in their order.

    Attributes:
        provider: Verifies them.
        deliveries: Those that tell of the end of a generation.
        unverified: How many were refused.
        refusal: Why the last of them was, such as a signature that does not fit.
        changed: Set with each delivery.
    """

    provider: Provider
    deliveries: list[Delivery] = field(default_factory=list)
    unverified: int = 0
    refusal: str | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def of_generation(self, generation_id: str | None) -> list[Delivery]:
        """Return the deliveries of a generation; some providers send only the last path segment of its id."""
        ends = f"/{generation_id}"
        return [delivery for delivery in self.deliveries if ends.endswith(f"/{delivery.generation_id}")]

    async def receive(self, request: Request) -> Response:
        """Verify and note one delivery."""
        received_at = datetime.now(UTC)
        body = b""
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > _LIMIT_BYTES:
                    return Response(status_code=413)
            # It may fetch the provider's keys, which must not block the event loop.
            event = await asyncio.to_thread(self.provider.parse_webhook, request.headers, body)
        except InvalidInput as error:
            self.unverified += 1
            self.refusal = str(error)
            return Response(status_code=401)
        except (ProviderUnavailable, ClientDisconnect) as error:
            logger.warning("a webhook could not be verified: %s", error)
            return Response(status_code=503)
        if not is_progress_event(event.event_type):
            self.deliveries.append(Delivery(event.event_id, event.generation_id, received_at))
            self.changed.set()
        return Response(status_code=204)


@asynccontextmanager
async def open_receiver(provider: Provider, host: str, port: int) -> AsyncIterator[tuple[DeliveryLog, int]]:
    """Receive webhooks for as long as the context lasts; yields the log, and the port that it listens on.

    Raises:
        VideoError: The address cannot be used.
    """
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise VideoError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    log = DeliveryLog(provider)
    routes = [Route("/{path:path}", log.receive, methods=["POST"])]
    app = Starlette(routes=routes)
    server = _QuietServer(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="webhook experiment")
    try:
        yield log, listening.getsockname()[1]
    finally:
        server.should_exit = True
        await serving
        listening.close()


class _QuietServer(uvicorn.Server):
    """A server inside of another program, whose signals it leaves alone."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield
