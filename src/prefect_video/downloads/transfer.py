"""Fetching a finished video: streamed to a local file, resumed when broken, digested on the way."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

import httpx
import tenacity

from prefect_video._shield import run_in_thread
from prefect_video.downloads.client import DEFAULT_SETTINGS, DownloadSettings, open_download_client
from prefect_video.downloads.http_responses import first_byte, open_following_redirects, raise_for_response, version_of
from prefect_video.downloads.media import Media
from prefect_video.downloads.partial_file import PartialFile, Version
from prefect_video.downloads.url_safety import LinkPolicy, origin, redact
from prefect_video.errors import DownloadError, IncompleteDownload, LinkExpired, UnsafeUrl
from prefect_video.retry_policy import is_retryable, retrying

__all__ = [
    "DownloadSettings",
    "Downloaded",
    "Progress",
    "Refresh",
    "VideoSource",
    "download",
    "open_download_client",
]

_log = logging.getLogger(__name__)

_BATCH_BYTES: Final = 2**20
_PROGRESS_BYTES: Final = 256 * 2**10
_BRAND_BYTES: Final = 8

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes of the whole, where known."""

Refresh = Callable[[], Awaitable[str]]
"""Asks the provider for a fresh link to the same video."""


@dataclass(frozen=True)
class VideoSource:
    """Where a video is fetched.

    Attributes:
        url: The link; a bearer secret while it lives.
        headers: Sent to the exact origin of `url` and nowhere else; for dialects whose content endpoint
            wants the key.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Downloaded:
    """A whole file on the local disk.

    Attributes:
        path: Where it is.
        sha256: Hex digest of its content.
        bytes: Its size.
        media: Its streams, once they have been looked at.
    """

    path: Path
    sha256: str
    bytes: int
    media: Media | None = None


async def download(
    source: VideoSource,
    spool: Path,
    *,
    client: httpx.AsyncClient,
    policy: LinkPolicy,
    expected_bytes: int | None = None,
    max_bytes: int | None = None,
    on_progress: Progress | None = None,
    refresh: Refresh | None = None,
    settings: DownloadSettings = DEFAULT_SETTINGS,
) -> Downloaded:
    """Fetches a video whole, at constant memory; continues what an earlier process left at the same path.

    Args:
        source: The link and its headers.
        spool: The file to write; one per generation, so that a restarted process continues it. A file that is
            there already is taken as finished: delete it if it turned out not to be playable.
        client: A client from `open_download_client`.
        policy: What the link and its redirects may lead to.
        expected_bytes: The size that the provider gave, if it did.
        max_bytes: A lower limit on the size than the policy's.
        on_progress: Told about every piece written.
        refresh: Asked for a fresh link when the link has died.
        settings: How patient to be.

    Raises:
        UnsafeUrl: The link, or a redirect, may not be fetched, or the video is too large.
        LinkExpired: The link has died, and fresh ones too.
        IncompleteDownload: No whole video came in the tries allowed.
        StoreError: The spool file cannot be written.
    """
    limit = min(policy.max_bytes, policy.max_bytes if max_bytes is None else max_bytes)
    transfer = _Transfer(
        source,
        PartialFile(spool),
        client,
        policy,
        expected_bytes=expected_bytes,
        limit_bytes=limit,
        on_progress=on_progress,
        refresh=refresh,
        settings=settings,
    )
    return await transfer.run()


class _Transfer:
    """One download over as many requests as it takes."""

    def __init__(
        self,
        source: VideoSource,
        spool: PartialFile,
        client: httpx.AsyncClient,
        policy: LinkPolicy,
        *,
        expected_bytes: int | None,
        limit_bytes: int,
        on_progress: Progress | None,
        refresh: Refresh | None,
        settings: DownloadSettings,
    ) -> None:
        self._source = source
        self._url = source.url
        self._spool = spool
        self._client = client
        self._policy = policy
        self._expected = expected_bytes
        self._limit = limit_bytes
        self._on_progress = on_progress
        self._refresh = refresh
        self._settings = settings
        self._refreshes = 0
        self._link_died = False
        self._from_start = False
        self._attempts_without_progress = 0
        self._max_bytes = 0
        self._unreachable_since: float | None = None

    async def run(self) -> Downloaded:
        spool = self._spool
        if await run_in_thread(spool.finished):
            if self._expected in (None, spool.size):
                return Downloaded(spool.path, spool.sha256, spool.size)
            await run_in_thread(spool.path.unlink, missing_ok=True)
        try:
            await run_in_thread(spool.open)
            self._max_bytes = spool.size
            await self._retrying()(self._try)
            await run_in_thread(spool.commit)
        finally:
            # No thread uses the file any more: each of its uses was waited for.
            spool.close()
        _log.info("downloaded %s: %d bytes", spool.path.name, spool.size)
        return Downloaded(spool.path, spool.sha256, spool.size)

    def _retrying(self) -> tenacity.AsyncRetrying:
        return retrying(
            self._settings.backoff_seconds,
            self._settings.backoff_limit_seconds,
            stop=lambda _: self._attempts_exhausted(),
            retry=self._worth_a_try,
            attempts=lambda: self._attempts_without_progress,
            before_sleep=self._log_retry,
        )

    def _attempts_exhausted(self) -> bool:
        if self._attempts_without_progress < self._settings.tries:
            return False
        away_since = self._unreachable_since
        return away_since is None or time.monotonic() - away_since >= self._settings.outage_seconds

    def _worth_a_try(self, error: BaseException) -> bool:
        if isinstance(error, LinkExpired):
            return self._refresh is not None and self._refreshes < self._settings.refreshes
        patience = self._settings.retry_after_limit_seconds
        return isinstance(error, IncompleteDownload) and is_retryable(error) and (error.retry_after or 0.0) <= patience

    def _log_retry(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        _log.info("download of %s goes on at byte %d: %s", self._spool.path.name, self._spool.size, error)

    async def _try(self) -> None:
        try:
            await self._replace_dead_link()
            await self._request()
            self._check_end()
        except httpx.TransportError as error:
            self._count_try(away=isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)))
            reason = str(error) or type(error).__name__
            raise IncompleteDownload(f"{self._where}: broke off at byte {self._spool.size:,} ({reason})") from error
        except DownloadError as error:
            self._count_try()
            self._link_died = isinstance(error, LinkExpired)
            raise

    @property
    def _where(self) -> str:
        return redact(self._url)

    def _count_try(self, *, away: bool = False) -> None:
        """A try is fruitless unless it got well beyond where any earlier one had been."""
        self._unreachable_since = (self._unreachable_since or time.monotonic()) if away else None
        if self._spool.size >= self._max_bytes + _PROGRESS_BYTES:
            self._attempts_without_progress = 0
        self._max_bytes = max(self._max_bytes, self._spool.size)
        self._attempts_without_progress += 1

    async def _replace_dead_link(self) -> None:
        if self._link_died and self._refresh is not None:
            self._refreshes += 1
            self._url = await self._refresh()
            self._link_died = False

    async def _request(self) -> None:
        """Asks for what is missing and writes what comes."""
        spool = self._spool
        offset = spool.size if spool.version.known and not self._from_start else 0
        self._from_start = False
        async with self._answer(offset) as response:
            version = version_of(response)
            if response.status_code == 416 and offset:
                return self._check_nothing_missing(version, offset)
            raise_for_response(response, self._where)
            if response.status_code == 206 and (
                first_byte(response) != offset or version.conflicts_with(spool.version)
            ):
                self._start_over("answered another part or version than was asked for")
            self._check_size(version.total)
            if version.total is not None:
                await run_in_thread(spool.check_free_space, version.total - offset)
            if response.status_code == 200:
                await run_in_thread(spool.truncate, version)
            await self._write(response)

    def _answer(self, offset: int) -> AbstractAsyncContextManager[httpx.Response]:
        headers: dict[str, str] = {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator := self._spool.version.etag or self._spool.version.last_modified:
                headers["If-Range"] = validator
        return open_following_redirects(
            self._client,
            self._url,
            self._policy,
            headers=headers,
            secret_headers=self._source.headers,
            secret_origin=origin(self._source.url),
        )

    def _check_nothing_missing(self, version: Version, offset: int) -> None:
        """416: either all is here already, or what is here is no piece of what is there."""
        total = version.total if version.total is not None else self._spool.version.total
        if total != offset or version.conflicts_with(self._spool.version):
            self._start_over(f"has no byte {offset:,}")

    def _start_over(self, reason: str) -> NoReturn:
        self._from_start = True
        raise IncompleteDownload(f"{self._where}: {reason}")

    def _check_size(self, total: int | None) -> None:
        if total is None:
            return
        if total > self._limit:
            raise UnsafeUrl(f"{self._where} refused: {total:,} bytes, at most {self._limit:,} are fetched")
        if self._expected is not None and total != self._expected:
            raise IncompleteDownload(f"{self._where}: offers {total:,} bytes, the provider promised {self._expected:,}")

    async def _write(self, response: httpx.Response) -> None:
        pieces: list[bytes] = []
        held = 0
        is_video = self._spool.size > 0
        try:
            async for piece in response.aiter_raw():
                pieces.append(piece)
                held += len(piece)
                if not is_video and held >= _BRAND_BYTES:
                    self._check_brand(pieces)
                    is_video = True
                if self._spool.size + held > self._limit:
                    raise UnsafeUrl(f"{self._where} refused: more than {self._limit:,} bytes")
                if held >= _BATCH_BYTES:
                    await self._flush(pieces)
                    pieces, held = [], 0
        except httpx.TransportError:
            if is_video:
                await self._flush(pieces)
            raise
        if is_video:
            await self._flush(pieces)

    def _check_brand(self, pieces: list[bytes]) -> None:
        """An MP4 says so in its first bytes; anything else is an error page under a wrong content type."""
        if b"".join(pieces)[4:_BRAND_BYTES] != b"ftyp":
            raise IncompleteDownload(f"{self._where}: the body is not an MP4")

    async def _flush(self, pieces: list[bytes]) -> None:
        if pieces:
            await run_in_thread(self._spool.append, pieces)
            if self._on_progress is not None:
                self._on_progress(self._spool.size, self._wanted)

    @property
    def _wanted(self) -> int | None:
        total = self._spool.version.total
        return total if total is not None else self._expected

    def _check_end(self) -> None:
        size, wanted = self._spool.size, self._wanted
        if wanted is not None and size > wanted:
            self._start_over(f"sent {size:,} bytes instead of {wanted:,}")
        if size < (wanted or _BRAND_BYTES):
            raise IncompleteDownload(f"{self._where}: ended after {size:,} of {wanted or 'some'} bytes")
