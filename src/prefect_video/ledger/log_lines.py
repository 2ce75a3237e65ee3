"""Lines of the log about jobs: one for each change of state, which says enough to be read alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

from prefect_video._amounts import PRICE_UNKNOWN, as_number, usd
from prefect_video.ledger.records import Job, State

logger = logging.getLogger(__name__)

_held_back: ContextVar[list[Callable[[], None]] | None] = ContextVar("held_back", default=None)
"""The lines of the transaction that is open."""

_PASSING: Final = frozenset({State.SUBMITTING})
"""States that a job leaves within a second; where it does not, the next change says so."""
_WITHOUT_VIDEO: Final = frozenset({State.UNKNOWN, State.FAILED, State.CANCELLED, State.EXPIRED, State.LOST})


def describe_job(job: Job) -> str:
    """Describe a job by its run, its ids and its cost, such as `run 5ac0…, job 3fa9…, generation gen_7, $0.30`.

    They are part of the message, as Prefect stores no other field of a line; other handlers find them in its fields.
    """
    cost = PRICE_UNKNOWN if job.cost_usd is None else usd(job.cost_usd)
    return f"run {job.flow_run_id or '-'}, job {job.id}, generation {job.generation_id or '-'}, {cost}"


@contextmanager
def log_after_commit() -> Iterator[None]:
    """Hold back the lines of a transaction until the context ends, which it does once they are durable.

    Where it ends with an error, the changes were taken back, and their lines are dropped.
    """
    if _held_back.get() is not None:
        yield
        return
    lines: list[Callable[[], None]] = []
    token = _held_back.set(lines)
    try:
        yield
    finally:
        _held_back.reset(token)
    for log in lines:
        log()


def _fields(job: Job) -> dict[str, Any]:
    """Return the fields of a line about a job, for a handler that keeps them, such as one that writes JSON.

    Their names are ours alone: a line whose fields another program sets too would not be made. None is `flow_run_id`:
    Prefect would show the line in that run, not in the one that has changed the job.
    """
    return {
        "video_project": job.project,
        "video_shot": job.shot.id,
        "video_take": job.take,
        "video_job_id": job.id,
        "video_state": job.state.value,
        "video_run_id": job.flow_run_id,
        "video_generation_id": job.generation_id,
        "video_cost_usd": as_number(job.cost_usd),
    }


def log_state(job: Job, change: str | None = None, *, level: int | None = None) -> None:
    """Log the state that a job has come to, once that is durable; where it ended without a video, why.

    Args:
        job: The job as it is now.
        change: How it came there, by default the name of its state.
        level: The level of the line; by default INFO, and DEBUG for a state that a job only passes through.
    """
    if level is None:
        level = logging.DEBUG if job.state in _PASSING else logging.INFO
    if not logger.isEnabledFor(level):
        return
    reason = f": {job.error_message.rstrip('.')}" if job.state in _WITHOUT_VIDEO and job.error_message else ""
    log = partial(
        logger.log,
        level,
        "%s/%s take %d: %s%s (%s)",
        job.project,
        job.shot.id,
        job.take,
        change or job.state,
        reason,
        describe_job(job),
        extra=_fields(job),
    )
    lines = _held_back.get()
    if lines is None:
        log()
    else:
        lines.append(log)
