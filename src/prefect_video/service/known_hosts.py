"""Refusal of requests for hosts that the service does not go by, such as a name that was pointed at it."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from prefect_video.errors import InvalidInput
from prefect_video.service.problems import build_problem, build_response
from prefect_video.service.settings import ServiceSettings
from prefect_video.session import Settings

logger = logging.getLogger(__name__)

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class KnownHosts:
    """ASGI middleware that answers 421 to a request whose `Host` is not known.

    Args:
        app: The application.
        names: The names and addresses that are known, besides loopback and the address that the request came in at.
    """

    def __init__(self, app: ASGIApp, *, names: Iterable[str]) -> None:
        self._app = app
        self._names = _LOOPBACK | {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, if its host is known."""
        if scope["type"] == "http" and not self._knows(scope):
            logger.warning("a request for an unknown host was refused; PREFECT_VIDEO_SERVICE_HOSTS adds known ones")
            refusal = build_problem(HTTPException(421, "this service is not that host"))
            await build_response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        try:
            host = urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or ""
        except ValueError:
            return False
        own_address = (scope.get("server") or ("",))[0]
        return host in self._names or host == own_address


def find_known_hosts(host: str, settings: ServiceSettings) -> tuple[str, ...]:
    """Return the hosts to know when listening on an address; none where any host will do.

    Raises:
        InvalidInput: The address is public, there is no token, and nothing says which hosts are known.
    """
    if settings.hosts or settings.has_job_api or _is_loopback(host):
        return settings.hosts
    url = Settings.from_environment().webhook_url
    name = urlsplit(url).hostname if url else None
    if name is None:
        raise InvalidInput(
            f"--host {host} is reachable by others: set PREFECT_VIDEO_WEBHOOK_URL, or PREFECT_VIDEO_SERVICE_HOSTS to"
            " the names by which it is reached, or PREFECT_VIDEO_SERVICE_API_TOKEN"
        )
    return (name,)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in _LOOPBACK
