"""Speed of a download: a connection that drips holds a slot while other videos expire."""

from __future__ import annotations

import time

from prefect_video.downloads.client import DownloadSettings
from prefect_video.errors import IncompleteDownload


class SpeedCheck:
    """Check of a download's speed: averaged over a time on each connection, and over all of them by its size.

    Attributes:
        was_too_slow: Whether the last connection was given up for its speed.
    """

    def __init__(self, settings: DownloadSettings) -> None:
        self.was_too_slow = False
        self._least = settings.min_bytes_per_second
        self._window_seconds = settings.speed_window_seconds
        self._grace_seconds = settings.grace_seconds
        self._active_seconds = 0.0
        self._began_at = self._window_at = 0.0
        self._window_bytes = 0

    def begin(self) -> None:
        """Begin with a new connection."""
        self.was_too_slow = False
        self._began_at = self._window_at = time.monotonic()
        self._window_bytes = 0

    def end(self) -> None:
        """End with a connection: the time until the next one does not count."""
        if self._began_at:
            self._active_seconds += time.monotonic() - self._began_at
        self._began_at = 0.0

    def add(self, received_bytes: int, total_bytes: int | None) -> None:
        """Count received bytes.

        Args:
            received_bytes: Their number.
            total_bytes: The size of the whole file, where it is known.

        Raises:
            IncompleteDownload: It is too slow: to be continued later on another connection, or left for a later run
                where all connections together have taken longer than a file of this size may.
        """
        self._window_bytes += received_bytes
        now = time.monotonic()
        elapsed = now - self._window_at
        if not self._least or elapsed < self._window_seconds:
            return
        speed = self._window_bytes / elapsed
        self._window_at, self._window_bytes = now, 0
        if speed >= self._least:
            return
        self.was_too_slow = True
        error = IncompleteDownload(f"{speed:,.0f} bytes a second, and {self._least:,} are the least")
        active = self._active_seconds + now - self._began_at
        if total_bytes is not None and active > self._grace_seconds + total_bytes / self._least:
            error = IncompleteDownload(f"{error.message}; not whole after {active:,.0f} s, continued by the next run")
            error.retryable = False
        raise error
