"""Experiment: how many generations the provider lets an account have unfinished at once, and how it refuses more."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from prefect_video._counted import counted
from prefect_video.errors import InvalidInput, QuotaExhausted, RateLimited
from prefect_video.experiments.charts import Chart, Series
from prefect_video.experiments.experiment import Experiment, Measurement, describe_failures, find_jobs, sum_paid
from prefect_video.ledger import Job, State
from prefect_video.limits import PrioritySemaphore
from prefect_video.pipeline import run_project
from prefect_video.projects import Project
from prefect_video.session import Session
from prefect_video.shots import Shot

_LIMIT_ERRORS = frozenset({RateLimited.__name__, QuotaExhausted.__name__})


class RateLimit(Experiment):
    """Boundary of generations that may be unfinished at once.

    Each level adds to what is in progress until as many as its number are; the first that is refused ends the
    experiment. So it buys at most as many videos as the highest level.

    Attributes:
        levels: The numbers of unfinished generations to try, growing.
    """

    name: ClassVar[str] = "rate-limit"

    levels: tuple[int, ...] = Field(default=(5, 10, 15, 20, 25), min_length=1, max_length=50)

    @field_validator("levels")
    @classmethod
    def _require_growth(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if levels[0] < 1 or levels[-1] > 500 or sorted(set(levels)) != list(levels):
            raise ValueError("levels: numbers from 1 to 500, each greater than the one before")
        return levels

    def build_shots(self, session: Session) -> tuple[Shot, ...]:
        shortest = self.choose_seconds(session, (5,))[0]
        return tuple(
            self.build_shot(session, f"at-once-{number:03d}", f"Rate limit test {number}", duration=shortest)
            for number in range(1, self.levels[-1] + 1)
        )


class Level(BaseModel):
    """One level: what was accepted and refused when it was tried.

    Attributes:
        at_once: The number of unfinished generations that it tries.
        accepted: Generations accepted so far, this level's included.
        refused: Those of this level that were refused.
        seconds: Seconds until all of this level were answered.
    """

    model_config = ConfigDict(frozen=True)

    at_once: int
    accepted: int
    refused: int
    seconds: float


class SeenError(BaseModel):
    """An error with which generations were refused.

    Attributes:
        error: Its class.
        message: One of its messages.
        count: How often it was seen.
    """

    model_config = ConfigDict(frozen=True)

    error: str
    message: str
    count: int


class RateLimitMeasurement(Measurement):
    """The boundary of unfinished generations.

    Attributes:
        levels: The levels that were tried.
        peak: The most of the experiment's generations that were unfinished at one moment.
        others: Other generations of the account that were in progress when it began.
        errors: The errors of refusals.
    """

    experiment: Literal["rate-limit"] = "rate-limit"
    levels: tuple[Level, ...]
    peak: int
    others: int
    errors: tuple[SeenError, ...]

    @property
    def boundary(self) -> int | None:
        """The most generations that the account may have unfinished; None where no limit was met."""
        met = any(seen.error in _LIMIT_ERRORS for seen in self.errors)
        return self.peak + self.others if met else None

    @property
    def summary(self) -> str:
        if self.boundary is not None:
            return f"unfinished at once: {counted(self.boundary, 'generation')}; more are refused"
        if self.errors:
            return f"no limit was met: with {self.peak} unfinished, others failed for other reasons"
        return f"no limit was met: {self.peak + self.others} were unfinished at once"

    @property
    def notes(self) -> tuple[str, ...]:
        seen = [f"{error.count} x {error.error}: {error.message}" for error in self.errors]
        others = counted(self.others, "other generation")
        busy = [f"{others} of the account in progress at the start, and part of the boundary"] if self.others else []
        return (*seen, *busy)

    def table(self) -> list[dict[str, str]]:
        return [
            {
                "at once": str(level.at_once),
                "accepted": f"{level.accepted}/{level.at_once}",
                "refused": str(level.refused),
                "answered in": f"{level.seconds:.1f} s",
            }
            for level in self.levels
        ]

    def chart(self) -> Chart:
        names = tuple(str(level.at_once) for level in self.levels)
        series = (
            Series("accepted", names, tuple(float(level.accepted) for level in self.levels), "bars"),
            Series("refused", names, tuple(float(level.refused) for level in self.levels), "bars"),
        )
        limit = None if self.boundary is None else (float(self.boundary), f"boundary: {self.boundary}")
        title = f"{self.provider} {self.model}: unfinished generations"
        return Chart(title, "generations at once", "generations", series, limit)


async def measure_rate_limit(
    session: Session, experiment: RateLimit, project: Project, *, refresh: bool, flow_run_id: str
) -> RateLimitMeasurement:
    """Send more and more generations until some are refused, then wait for all that were accepted, and keep them.

    Raises:
        InvalidInput: The account's slots are reduced after a refusal, so that its limit would not be met.
        VideoError: The run was refused as a whole; nothing was sent.
    """
    began = datetime.now(UTC)
    others = await _require_all_slots(session, experiment.levels[-1])
    levels: list[Level] = []
    with _without_own_limits(session, experiment.levels[-1] + others):
        for at_once in experiment.levels:
            sent_before = levels[-1].at_once if levels else 0
            step = project.model_copy(update={"shots": project.shots[sent_before:at_once]})
            started = time.monotonic()
            await run_project(session, step, wait=False, refresh=refresh, flow_run_id=flow_run_id)
            seconds = time.monotonic() - started
            jobs = await find_jobs(session, _first(project, at_once))
            refused = sum(job.state is State.RELEASED for job in jobs)
            levels.append(Level(at_once=at_once, accepted=len(jobs) - refused, refused=refused, seconds=seconds))
            if refused:
                break
    jobs = await _wait_for_accepted(session, project, levels[-1].at_once, flow_run_id)
    accepted = [job for job in jobs if job.state is not State.RELEASED]
    return RateLimitMeasurement(
        project=project.name,
        provider=session.provider.name,
        model=experiment.model,
        digest=experiment.digest(session),
        measured_at=datetime.now(UTC),
        cost_usd=sum_paid(jobs, began),
        failures=describe_failures(_first(project, len(accepted)), accepted),
        levels=tuple(levels),
        peak=count_peak(accepted),
        others=others,
        errors=_count_errors([job for job in jobs if job.state is State.RELEASED]),
    )


async def _require_all_slots(session: Session, most: int) -> int:
    """Return how many generations of the account are in progress.

    Raises:
        InvalidInput: Runs have met a limit just now, and the ledger holds them back.
    """
    status = await session.ledger.accounts.status(session.provider.account.id, slots=most)
    if status.slots is not None and status.slots < most:
        raise InvalidInput(
            f"{session.account_name}: its slots are down to {status.slots} after a refusal, and grow by one in half a"
            " minute: begin again later"
        )
    return status.occupied


@contextmanager
def _without_own_limits(session: Session, at_once: int) -> Iterator[None]:
    """Let the provider alone decide how many are unfinished: no slots of plan and settings, no second try.

    A refusal does not reduce the account's slots either: it is what is looked for, and other runs go on.
    """
    before = session.account_slots, session.in_flight_slots, session.settings
    session.account_slots, session.in_flight_slots = at_once, PrioritySemaphore(at_once)
    session.settings = session.settings.model_copy(update={"submit_patience_seconds": 0.0})
    session.eases_off = False
    try:
        yield
    finally:
        session.account_slots, session.in_flight_slots, session.settings = before
        session.eases_off = True


async def _wait_for_accepted(session: Session, project: Project, sent: int, flow_run_id: str) -> list[Job]:
    """Wait for the generations that were accepted, and store them; return the jobs of all that were sent."""
    tried = _first(project, sent)
    refused = {job.shot.id for job in await find_jobs(session, tried) if job.state is State.RELEASED}
    if left := tuple(shot for shot in tried.shots if shot.id not in refused):
        await run_project(session, project.model_copy(update={"shots": left}), flow_run_id=flow_run_id)
    return await find_jobs(session, tried)


def _first(project: Project, number: int) -> Project:
    """Return a project of the first shots only."""
    return project.model_copy(update={"shots": project.shots[:number]})


def count_peak(jobs: Sequence[Job]) -> int:
    """Return the most generations that were unfinished at one moment, by the ledger's times."""
    changes: list[tuple[datetime, int]] = []
    for job in jobs:
        if job.submitted_at is None:
            continue
        ended = job.completed_at or job.updated_at
        if job.seconds_taken:
            ended = min(ended, job.submitted_at + timedelta(seconds=job.seconds_taken))
        changes += [(job.submitted_at, 1), (max(ended, job.submitted_at), -1)]
    most = running = 0
    for _, change in sorted(changes, key=lambda moment: (moment[0], -moment[1])):
        running += change
        most = max(most, running)
    return most


def _count_errors(refused: Sequence[Job]) -> tuple[SeenError, ...]:
    messages = {job.error_type or "unknown": job.error_message or "" for job in refused}
    counts = Counter(job.error_type or "unknown" for job in refused)
    return tuple(SeenError(error=name, message=messages[name], count=count) for name, count in counts.most_common())
