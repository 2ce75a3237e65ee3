"""Retry policy of requests that cost nothing: which errors are repeated, and after how long.

Paid requests are sent once and do not come here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import tenacity

from prefect_video.errors import VideoError

_MOST_DOUBLINGS: Final = 30
"""Beyond it every limit is reached, and much beyond it a float overflows."""


def is_retryable(error: BaseException) -> bool:
    """Tell whether repeating may succeed and costs nothing."""
    return isinstance(error, VideoError) and error.retryable


def retrying(
    first_seconds: float,
    limit_seconds: float,
    *,
    stop: Callable[[tenacity.RetryCallState], bool],
    retry: Callable[[BaseException], bool] = is_retryable,
    attempts: Callable[[], int] | None = None,
    before_sleep: Callable[[tenacity.RetryCallState], None] | None = None,
) -> tenacity.AsyncRetrying:
    """Build a loop that waits by exponential back-off with full jitter, and at least as long as the server asks.

    Args:
        first_seconds: Upper bound of the first random delay; doubles with each attempt.
        limit_seconds: Upper bound of any random delay.
        stop: Tells whether to give up; the last error is raised then.
        retry: Tells which errors are repeated.
        attempts: Counts the attempts that the delay grows with, where not every attempt counts.
        before_sleep: Called before each delay.
    """

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        doublings = min(max(0, (attempts() if attempts else state.attempt_number) - 1), _MOST_DOUBLINGS)
        requested = error.retry_after if isinstance(error, VideoError) else None
        return max(random.uniform(0.0, min(first_seconds * 2.0**doublings, limit_seconds)), requested or 0.0)

    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(retry), stop=stop, wait=wait, before_sleep=before_sleep, reraise=True
    )
