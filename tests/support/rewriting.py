"""Rewriting transport: a relay between a provider and the emulator that changes what the emulator answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

Rewrite = Callable[[httpx.Request, int, Any], tuple[int, Any]]
"""Function from a request and the status and document of its answer to those that are passed on."""


class RewritingTransport(httpx.AsyncHTTPTransport):
    """Transport to a server whose JSON answers are rewritten.

    Args:
        rewrite: Rewrites an answer.
    """

    def __init__(self, rewrite: Rewrite) -> None:
        super().__init__()
        self._rewrite = rewrite

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the rewritten answer; one that is no JSON is left alone."""
        response = await super().handle_async_request(request)
        body = await response.aread()
        await response.aclose()
        status, content = response.status_code, body
        if "json" in response.headers.get("content-type", ""):
            status, document = self._rewrite(request, status, json.loads(body))
            content = json.dumps(document).encode()
        headers = [(name, value) for name, value in response.headers.items() if name != "content-length"]
        return httpx.Response(status, headers=headers, content=content)
