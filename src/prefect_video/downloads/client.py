"""HTTP client for downloads, and its timeouts and retry limits."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import httpx

from prefect_video._proxies import check_proxies, range_mounts
from prefect_video._tls import trusted_certificates
from prefect_video.downloads.url_safety import redact


@dataclass(frozen=True)
class DownloadSettings:
    """Timeouts and retry limits of a download.

    Attributes:
        tries: Consecutive attempts without progress before the download fails.
        outage_seconds: Time for which a host that accepts no connections is retried, whatever the number of attempts.
        refreshes: Most fresh links that are requested from the provider.
        backoff_seconds: Upper bound of the first wait; doubles with each attempt without progress. The wait is drawn at
            random below it.
        backoff_limit_seconds: Upper bound of any such wait.
        retry_after_limit_seconds: Longest `Retry-After` that is waited out here; a longer one is left to the caller.
        connect_timeout_seconds: Limit on the time to connect.
        read_timeout_seconds: Limit on the time between two chunks of the body.
        unready_seconds: Time from the start for which a file that is not there yet (202, 404, 409, 425) is waited for,
            whatever the number of attempts: some hosts are behind the API that reports the end.
        min_bytes_per_second: Least speed, averaged over `speed_window_seconds`; a slower connection is given up and the
            download continued. 0 for none.
        speed_window_seconds: Time over which the speed is averaged.
        grace_seconds: Time that a download may take in addition to that of its bytes at the least speed.
    """

    tries: int = 5
    outage_seconds: float = 120.0
    refreshes: int = 3
    backoff_seconds: float = 0.5
    backoff_limit_seconds: float = 20.0
    retry_after_limit_seconds: float = 120.0
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0
    unready_seconds: float = 30.0
    min_bytes_per_second: int = 16 * 1024
    speed_window_seconds: float = 30.0
    grace_seconds: float = 300.0


DEFAULT_SETTINGS: Final = DownloadSettings()


def open_download_client(settings: DownloadSettings = DEFAULT_SETTINGS, *, trust_env: bool = True) -> httpx.AsyncClient:
    """Open a client that holds no key and follows no redirects by itself.

    Args:
        settings: The timeouts.
        trust_env: Use the environment's proxies and certificates.

    Raises:
        InvalidInput: A variable of the environment cannot be used.
    """
    logging.getLogger("httpx").addFilter(_redact_links)
    if trust_env:
        check_proxies()
    certificates = trusted_certificates(trust_env=trust_env)
    limits = httpx.Limits(max_connections=64)
    return httpx.AsyncClient(
        follow_redirects=False,
        trust_env=trust_env,
        verify=certificates,
        mounts=range_mounts(certificates, limits) if trust_env else None,
        timeout=httpx.Timeout(
            settings.read_timeout_seconds,
            connect=settings.connect_timeout_seconds,
            # A download that waits for a free connection has not failed.
            pool=None,
        ),
        limits=limits,
        # A compressed body could be neither resumed by byte nor compared with the promised size.
        headers={"Accept": "video/*, application/octet-stream;q=0.9, */*;q=0.1", "Accept-Encoding": "identity"},
    )


def _redact_links(record: logging.LogRecord) -> bool:
    """Cut the secrets out of the links that httpx logs in full; a logging filter that keeps every record."""
    if isinstance(record.args, tuple):
        record.args = tuple(redact(arg) if isinstance(arg, httpx.URL) else arg for arg in record.args)
    return True
