"""Lines of the log about jobs: one for each change of state, which says enough to be read alone."""

from __future__ import annotations

import logging
from typing import Final

from prefect_video.ledger.amounts import PRICE_UNKNOWN, usd
from prefect_video.ledger.records import Job, State

logger = logging.getLogger(__name__)

_PASSING: Final = frozenset({State.SUBMITTING})
"""States that a job leaves within a second; where it does not, the next change says so."""
_WITHOUT_VIDEO: Final = frozenset({State.UNKNOWN, State.FAILED, State.CANCELLED, State.EXPIRED, State.LOST})


def describe_job(job: Job) -> str:
    """Describe a job by its run, its ids and its cost, such as `run 5ac0…, job 3fa9…, generation gen_7, $0.30`.

    They are part of the message, as Prefect stores no other field of a line.
    """
    cost = PRICE_UNKNOWN if job.cost_usd is None else usd(job.cost_usd)
    return f"run {job.flow_run_id or '-'}, job {job.id}, generation {job.generation_id or '-'}, {cost}"


def log_state(job: Job, change: str | None = None, *, level: int | None = None) -> None:
    """Log the state that a job has come to; where it ended without a video, why.

    Args:
        job: The job as it is now.
        change: How it came there, by default the name of its state.
        level: The level of the line; by default INFO, and DEBUG for a state that a job only passes through.
    """
    if level is None:
        level = logging.DEBUG if job.state in _PASSING else logging.INFO
    reason = f": {job.error_message.rstrip('.')}" if job.state in _WITHOUT_VIDEO and job.error_message else ""
    logger.log(
        level,
        "%s/%s take %d: %s%s (%s)",
        job.project,
        job.shot.id,
        job.take,
        change or job.state,
        reason,
        describe_job(job),
    )
