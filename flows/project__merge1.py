"""What a run came to, kept for the caller: Prefect's API may fail when it is told of the run's end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from prefect_video.pipeline.reports import ProjectReport


@dataclass
class Outcome:
    """What the flow that was called in the context has come to.

    Attributes:
        report: Of its shots; None for as long as it has not made them all.
    """

    report: ProjectReport | None = None


@contextmanager
def keeping_outcome() -> Iterator[Outcome]:
    """Keeps the report of the flow that is called in the context, whatever becomes of the flow run."""
    outcome = Outcome()
    token = _outcome.set(outcome)
    try:
        yield outcome
    finally:
        _outcome.reset(token)


def keep_report(report: ProjectReport) -> None:
    """Hands a report to the caller who keeps it, if there is one."""
    if outcome := _outcome.get():
        outcome.report = report


_outcome: ContextVar[Outcome | None] = ContextVar("outcome", default=None)
