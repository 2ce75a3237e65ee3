"""The HTTP client that fetches videos, and how patient it is."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import httpx

from prefect_video._tls import trusted_certificates
from prefect_video.downloads.url_safety import redact


@dataclass(frozen=True)
class DownloadSettings:
    """How patient a download is.

    Attributes:
        tries: Requests in a row that bring nothing new before it gives up.
        outage_seconds: How long a host that takes no connections is waited for, however many tries that makes.
        refreshes: How many fresh links it asks for.
        backoff_seconds: Upper bound of the first wait; doubles with each fruitless try, drawn at random below.
        backoff_limit_seconds: Upper bound of any such wait.
        retry_after_limit_seconds: The longest `Retry-After` that is waited out here.
        connect_timeout_seconds: Time to connect.
        read_timeout_seconds: Time between two pieces of the body.
    """

    tries: int = 5
    outage_seconds: float = 120.0
    refreshes: int = 3
    backoff_seconds: float = 0.5
    backoff_limit_seconds: float = 20.0
    retry_after_limit_seconds: float = 120.0
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0


DEFAULT_SETTINGS: Final = DownloadSettings()


def open_download_client(settings: DownloadSettings = DEFAULT_SETTINGS, *, trust_env: bool = True) -> httpx.AsyncClient:
    """A client that knows no key and follows no redirects of its own.

    Args:
        settings: Gives the time limits.
        trust_env: Whether proxies and certificates of the environment are used.
    """
    logging.getLogger("httpx").addFilter(_redact_links)
    return httpx.AsyncClient(
        follow_redirects=False,
        trust_env=trust_env,
        verify=trusted_certificates(trust_env=trust_env),
        timeout=httpx.Timeout(
            settings.read_timeout_seconds,
            connect=settings.connect_timeout_seconds,
            pool=None,
        ),
        limits=httpx.Limits(max_connections=64),
        headers={"Accept": "video/*, application/octet-stream;q=0.9, */*;q=0.1", "Accept-Encoding": "identity"},
    )


def _redact_links(record: logging.LogRecord) -> bool:
    """Httpx logs every link whole; ours are secrets while they live."""
    if isinstance(record.args, tuple):
        record.args = tuple(redact(arg) if isinstance(arg, httpx.URL) else arg for arg in record.args)
    return True
