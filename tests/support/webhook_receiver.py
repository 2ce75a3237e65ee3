"""Webhook receiver that records every delivery."""

from __future__ import annotations

import json
import queue
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Received:
    """One delivery as received."""

    body: bytes
    headers: dict[str, str]

    @property
    def event(self) -> dict[str, Any]:
        """Return the decoded body."""
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded


@dataclass
class WebhookReceiver:
    """HTTP server on loopback that answers with `statuses` in turn, then with 200."""

    statuses: list[int] = field(default_factory=list)
    received: queue.Queue[Received] = field(default_factory=queue.Queue)

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.send_header("content-length", "0")
                self.end_headers()
                receiver.received.put(Received(body, headers))

            def log_message(self, format: str, *args: object) -> None:
                """Write no access log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Return the address to which webhooks are sent."""
        return f"http://127.0.0.1:{self._server.server_port}/hook"

    def take(self, number: int, timeout_seconds: float = 15.0) -> list[Received]:
        """Wait for the next deliveries and return them."""
        return [self.received.get(timeout=timeout_seconds) for _ in range(number)]

    def take_until(self, event_type: str, timeout_seconds: float = 15.0) -> list[Received]:
        """Wait for deliveries up to the first of a type, and return them with it."""
        taken = [self.received.get(timeout=timeout_seconds)]
        while taken[-1].event["event_type"] != event_type:
            taken.append(self.received.get(timeout=timeout_seconds))
        return taken
