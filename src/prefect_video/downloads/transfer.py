"""Download of a finished video: streamed to a local file, resumed after a failure, hashed on the way."""

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

from prefect_video._redaction import redaction_for
from prefect_video._shield import run_in_thread
from prefect_video.downloads.client import DEFAULT_SETTINGS, DownloadSettings, open_download_client
from prefect_video.downloads.http_responses import (
    UNREADY,
    describe_foreign_body,
    open_following_redirects,
    parse_first_byte,
    parse_version,
    raise_for_status,
)
from prefect_video.downloads.media import SIGNATURE_BYTES, Media, has_video_signature
from prefect_video.downloads.partial_file import PartialFile, Version
from prefect_video.downloads.private_files import prepare_private_folder
from prefect_video.downloads.speed import SpeedCheck
from prefect_video.downloads.url_safety import LinkPolicy, origin, redact
from prefect_video.errors import DownloadError, IncompleteDownload, LinkExpired, UnsafeUrl
from prefect_video.quality import Quality
from prefect_video.retry_policy import is_retryable, retrying

__all__ = [
    "DownloadSettings",
    "Downloaded",
    "Progress",
    "Refresh",
    "VideoSource",
    "download",
    "load_finished",
    "open_download_client",
]

_log = logging.getLogger(__name__)

_BATCH_BYTES: Final = 2**20
# Fewer new bytes are no progress: a server that drops every connection after some bytes must not be retried forever.
_PROGRESS_BYTES: Final = 256 * 2**10

Progress = Callable[[int, int | None], None]
"""Callback with the bytes written so far and the bytes of the whole file, where known."""

Refresh = Callable[[], Awaitable[str]]
"""Callback that requests a fresh link to the same video from the provider."""

StepAside = Callable[[], Awaitable[None]]
"""Callback that lets other downloads go first, and returns when it is this one's turn again."""


@dataclass(frozen=True)
class VideoSource:
    """Link to a video, with the headers that its own origin needs.

    Attributes:
        url: The link; a bearer secret until it expires.
        headers: Sent to the exact origin of `url` and nowhere else; for dialects whose content endpoint
            requires the key.
        fallback: Another place of the same video, tried where the host of `url` wants a key that it is not sent.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    fallback: VideoSource | None = None


@dataclass(frozen=True)
class Downloaded:
    """Complete downloaded file on the local disk.

    Attributes:
        path: Path of the file.
        sha256: Hex digest of its content.
        bytes: Its size.
        media: Its properties, once it has been probed.
        stated_bytes: The size that the provider stated, where it is another one.
        was_finished: Whether an earlier process had finished it: nothing was fetched now.
        notes: What is odd about it, and no reason to refuse it.
        quality: What the quality gates have found in it; None where there are none.
    """

    path: Path
    sha256: str
    bytes: int
    media: Media | None = None
    stated_bytes: int | None = None
    was_finished: bool = False
    notes: tuple[str, ...] = ()
    quality: Quality | None = None


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
    step_aside: StepAside | None = None,
    settings: DownloadSettings = DEFAULT_SETTINGS,
) -> Downloaded:
    """Fetch a whole video at constant memory; continue the part that an earlier process left at the same path.

    Args:
        source: The link and its headers.
        spool: The file to write; one per generation, so that a restarted process continues it. An existing file
            counts as finished: delete it if it is not playable.
        client: A client from `open_download_client`.
        policy: The addresses that the link and its redirects may lead to.
        expected_bytes: The size that the provider stated, if it did. Only the file's own host knows it for certain: one
            that ends elsewhere is fetched, and its content decides.
        max_bytes: A limit on the size below the policy's.
        on_progress: Called after every write.
        refresh: Called for a fresh link when the link has expired.
        step_aside: Called before a download that was too slow is continued.
        settings: Timeouts and retry limits.

    Returns:
        The finished file, not yet probed.

    Raises:
        UnsafeUrl: The link, or a redirect, may not be fetched, or the video is too large.
        LinkExpired: The link has expired, and so have the fresh ones.
        IncompleteDownload: No whole video arrived within the attempts allowed.
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
        step_aside=step_aside,
        settings=settings,
    )
    return await transfer.run()


async def load_finished(spool: Path) -> Downloaded | None:
    """Return the file that an earlier process has finished at a path; None where there is none.

    The folder is made, or proven to be this user's alone.

    Raises:
        StoreError: It cannot be read, or others may write to its folder.
    """
    file = PartialFile(spool)

    def load() -> bool:
        prepare_private_folder(spool.parent)
        return file.load_finished()

    if not await run_in_thread(load):
        return None
    return Downloaded(file.path, file.sha256, file.size, was_finished=True)


class _Transfer:
    """One download over as many requests as it needs."""

    def __init__(
        self,
        source: VideoSource,
        partial_file: PartialFile,
        client: httpx.AsyncClient,
        policy: LinkPolicy,
        *,
        expected_bytes: int | None,
        limit_bytes: int,
        on_progress: Progress | None,
        refresh: Refresh | None,
        step_aside: StepAside | None,
        settings: DownloadSettings,
    ) -> None:
        self._source = source
        self._url = source.url
        self._file = partial_file
        self._client = client
        self._policy = policy
        self._expected = expected_bytes
        self._limit = limit_bytes
        self._on_progress = on_progress
        self._refresh = refresh
        self._settings = settings
        self._redaction = redaction_for(source.headers.get("Authorization"))
        self._speed = SpeedCheck(settings)
        self._step_aside = step_aside
        self._started_at = time.monotonic()
        self._is_unready = False
        self._short_end: int | None = None
        self._refreshes = 0
        self._link_expired = self._is_denied = False
        self._from_start = False
        self._attempts_without_progress = 0
        self._max_bytes = 0
        self._unreachable_since: float | None = None

    async def run(self) -> Downloaded:
        file = self._file
        try:
            if await run_in_thread(self._open):
                return Downloaded(file.path, file.sha256, file.size, was_finished=True)
            await self._build_retry()(self._attempt)
            await run_in_thread(file.commit)
        finally:
            # Safe even after a cancellation: `run_in_thread` returns only when its thread is done with the file.
            file.close()
        _log.debug("downloaded %s: %d bytes", file.path.name, file.size)
        stated = None if self._expected in (None, file.size) else self._expected
        return Downloaded(file.path, file.sha256, file.size, stated_bytes=stated)

    def _open(self) -> bool:
        """Open the file to be written; return True where an earlier process has finished it."""
        file = self._file
        if file.load_finished():
            if self._expected in (None, file.size):
                return True
            file.path.unlink(missing_ok=True)
        file.open()
        self._max_bytes = file.size
        return False

    def _build_retry(self) -> tenacity.AsyncRetrying:
        return retrying(
            self._settings.backoff_seconds,
            self._settings.backoff_limit_seconds,
            stop=lambda _: self._attempts_exhausted(),
            retry=self._is_worth_retrying,
            attempts=lambda: self._attempts_without_progress,
            before_sleep=self._log_retry,
        )

    def _attempts_exhausted(self) -> bool:
        if self._waits_for_file() or self._attempts_without_progress < self._settings.tries:
            return False
        # Refused connections fail within milliseconds: the attempts alone would be used up before a restart is over.
        since = self._unreachable_since
        return since is None or time.monotonic() - since >= self._settings.outage_seconds

    def _waits_for_file(self) -> bool:
        """Return whether the host does not have the file yet, and may still get it."""
        return self._is_unready and time.monotonic() - self._started_at < self._settings.unready_seconds

    def _is_worth_retrying(self, error: BaseException) -> bool:
        if not isinstance(error, LinkExpired | IncompleteDownload):
            return False
        if (error.retry_after or 0.0) > self._settings.retry_after_limit_seconds:
            return False
        if self._waits_for_file():
            return True
        if isinstance(error, LinkExpired):
            return self._can_refresh or (self._is_denied and self._source.fallback is not None)
        return is_retryable(error)

    @property
    def _can_refresh(self) -> bool:
        return self._refresh is not None and self._refreshes < self._settings.refreshes

    def _log_retry(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        _log.info("download of %s continues at byte %d: %s", self._file.path.name, self._file.size, error)

    async def _attempt(self) -> None:
        try:
            if self._speed.was_too_slow and self._step_aside is not None:
                await self._step_aside()
            await self._replace_expired_link()
            self._speed.begin()
            await self._fetch_rest()
            self._check_complete()
        except httpx.TransportError as error:
            self._count_attempt(unreachable=isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)))
            # It may quote what the server sent, as errors of the response may.
            reason = self._redaction.text(str(error)) or type(error).__name__
            message = f"{self._where}: broke off at byte {self._file.size:,} ({reason})"
            raise IncompleteDownload(message) from self._redaction.cause(error)
        except DownloadError as error:
            error.message = self._redaction.text(error.message)
            error.args = (error.message,)
            self._count_attempt()
            self._link_expired = isinstance(error, LinkExpired)
            self._is_denied = isinstance(error, LinkExpired) and error.denied
            raise
        finally:
            self._speed.end()

    @property
    def _where(self) -> str:
        return redact(self._url)

    def _count_attempt(self, *, unreachable: bool = False) -> None:
        """Count an attempt as one without progress unless it got well beyond the furthest byte of all earlier ones."""
        self._unreachable_since = (self._unreachable_since or time.monotonic()) if unreachable else None
        if self._file.size >= self._max_bytes + _PROGRESS_BYTES:
            self._attempts_without_progress = 0
        self._max_bytes = max(self._max_bytes, self._file.size)
        self._attempts_without_progress += 1

    async def _replace_expired_link(self) -> None:
        if not self._link_expired:
            return
        if self._is_denied and self._source.fallback is not None:
            # A fresh link would lead to the same host, which wants a key that is not meant for it.
            self._source, self._refresh = self._source.fallback, None
            self._url = self._source.url
        elif self._refresh is not None and self._can_refresh:
            self._refreshes += 1
            self._url = await self._refresh()
        self._link_expired = self._is_denied = False

    async def _fetch_rest(self) -> None:
        """Request the missing bytes and write those that arrive."""
        file = self._file
        # Bytes whose version is not known may be of another file: they are not continued.
        offset = file.size if file.version.is_known and not self._from_start else 0
        self._from_start = self._is_unready = False
        async with self._open_response(offset) as response:
            version = parse_version(response)
            if response.status_code == 416 and offset:
                return self._check_nothing_missing(version, offset)
            self._is_unready = response.status_code in UNREADY
            raise_for_status(response, self._where)
            if response.status_code == 206 and (
                parse_first_byte(response) != offset or version.conflicts_with(file.version)
            ):
                # Appended, these bytes would make one file out of two.
                self._start_over("answered another range or version than was requested")
            self._check_size(version.total)
            # Whatever range was requested: with 200 the file has changed, or the server knows no ranges. From the first
            # byte on, a range that was not requested is the file as well.
            is_whole = response.status_code == 200 or offset == 0
            if version.total is not None and not is_whole:
                # Before the first byte, as `truncate` does where all of them come.
                await run_in_thread(file.check_free_space, version.total - offset)
            await self._write(response, version, is_whole=is_whole)

    def _open_response(self, offset: int) -> AbstractAsyncContextManager[httpx.Response]:
        headers: dict[str, str] = {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator := self._file.version.etag or self._file.version.last_modified:
                # A changed file is then answered whole (200) instead of with a range that does not fit.
                headers["If-Range"] = validator
        return open_following_redirects(
            self._client,
            self._url,
            self._policy,
            headers=headers,
            secret_headers=self._source.headers,
            # Of the first link, not of a fresh one: the key belongs to the API, and a fresh link may lead elsewhere.
            secret_origin=origin(self._source.url),
        )

    def _check_nothing_missing(self, version: Version, offset: int) -> None:
        """Interpret a 416: the file is complete already, or its bytes belong to another version of the remote file."""
        total = version.total if version.total is not None else self._file.version.total
        if total != offset or version.conflicts_with(self._file.version):
            self._start_over(f"has no byte {offset:,}")

    def _start_over(self, reason: str) -> NoReturn:
        self._from_start = True
        raise IncompleteDownload(f"{self._where}: {reason}")

    def _check_size(self, total: int | None) -> None:
        if total is not None and total > self._limit:
            raise UnsafeUrl(f"{self._where} refused: {total:,} bytes, at most {self._limit:,} are fetched")

    async def _write(self, response: httpx.Response, version: Version, *, is_whole: bool) -> None:
        """Write a body; the whole file replaces what is there once its first bytes are those of a video."""
        file, chunks, pending_bytes = self._file, list[bytes](), 0
        is_checked = not is_whole and file.size > 0
        try:
            async for chunk in response.aiter_raw():
                chunks.append(chunk)
                pending_bytes += len(chunk)
                if not is_checked and pending_bytes >= SIGNATURE_BYTES:
                    self._check_signature(chunks, response)
                    is_checked = True
                    if is_whole:
                        await run_in_thread(file.truncate, version)
                if (file.size if is_checked else 0) + pending_bytes > self._limit:
                    raise UnsafeUrl(f"{self._where} refused: more than {self._limit:,} bytes")
                if pending_bytes >= _BATCH_BYTES:
                    await self._flush(chunks)
                    chunks, pending_bytes = [], 0
                self._check_speed(len(chunk))
        except (httpx.TransportError, IncompleteDownload):
            # The bytes that arrived before a break are good: the next attempt continues after them.
            if is_checked:
                await self._flush(chunks)
            raise
        if is_checked:
            await self._flush(chunks)
        elif is_whole:
            raise IncompleteDownload(
                f"{self._where}: ended after 0 bytes of a video; {describe_foreign_body(response)}"
            )

    def _check_signature(self, chunks: list[bytes], response: httpx.Response) -> None:
        """Raise unless the first bytes are those of a video; headers tell nothing certain, and explain the failure."""
        if not has_video_signature(b"".join(chunks)[:SIGNATURE_BYTES]):
            raise IncompleteDownload(f"{self._where}: {describe_foreign_body(response)}")

    def _check_speed(self, received_bytes: int) -> None:
        try:
            self._speed.add(received_bytes, self._total_bytes)
        except IncompleteDownload as error:
            slow = IncompleteDownload(f"{self._where}: too slow at byte {self._file.size:,}: {error.message}")
            slow.retryable = error.retryable
            raise slow from error

    async def _flush(self, chunks: list[bytes]) -> None:
        if chunks:
            await run_in_thread(self._file.append, chunks)
            if self._on_progress is not None:
                self._on_progress(self._file.size, self._total_bytes)

    @property
    def _total_bytes(self) -> int | None:
        total = self._file.version.total
        return total if total is not None else self._expected

    def _check_complete(self) -> None:
        size, total = self._file.size, self._total_bytes
        if self._file.version.total is not None and size > self._file.version.total:
            self._start_over(f"sent {size:,} bytes instead of {total:,}")
        if size < (total or SIGNATURE_BYTES) and not self._ends_here(size):
            of_total = "" if total is None else f" of {total:,}"
            raise IncompleteDownload(f"{self._where}: ended after {size:,}{of_total} bytes")

    def _ends_here(self, size: int) -> bool:
        """Return whether a file ends before the stated size: its host states none, and it ended there before too."""
        if self._file.version.total is not None or size < SIGNATURE_BYTES:
            return False
        is_end, self._short_end = size == self._short_end, size
        return is_end
