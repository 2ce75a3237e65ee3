"""Retry policy of requests that cost nothing: the errors that are repeated, and the delays.

Paid requests are sent once and never use it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import tenacity

from prefect_video.errors import VideoError

_MOST_DOUBLINGS: Final = 30
"""Number of doublings beyond which every limit is reached; far beyond it, a float overflows."""


def is_retryable(error: BaseException) -> bool:
    """Return whether repeating may succeed and costs nothing."""
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
    """Build a retry loop with exponential back-off, full jitter and at least the delay that the server requests.

    Args:
        first_seconds: Upper bound of the first random delay; doubles with each attempt.
        limit_seconds: Upper bound of any random delay.
        stop: Decides to give up; the last error is raised then.
        retry: Decides which errors are repeated.
        attempts: Returns the number of attempts with which the delay grows, where not every attempt counts.
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
