"""Reports: the outcome and the cost of a run of a project, for people and for programs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from prefect_video.assets import Asset
from prefect_video.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    ContentPolicyError,
    DeadlineExceeded,
    DownloadError,
    GenerationBlocked,
    GenerationCancelled,
    GenerationExpired,
    GenerationFailed,
    GenerationInvalid,
    GenerationLost,
    HeldForReview,
    LedgerError,
    ProviderUnavailable,
    QuotaExhausted,
    StoreError,
    VideoRejected,
)
from prefect_video.film import StoredFilm
from prefect_video.ledger import (
    PRICE_UNKNOWN,
    PROGRAM,
    Job,
    JobRequest,
    Ledger,
    State,
    as_number,
    command_line,
    usd_sum,
)
from prefect_video.pipeline.shot_run import DetachedShot, StoredShot
from prefect_video.quality import Quality

logger = logging.getLogger(__name__)

ShotStatus = Literal[
    "stored", "failed", "cancelled", "held", "over_budget", "skipped", "in_flight", "waiting", "dropped"
]

OPEN: Final = frozenset({"stored", "in_flight", "waiting", "dropped"})
"""Statuses that are no failure: it is stored, or may be yet, or is not wanted any more."""

_UNPAID: Final = frozenset({State.RESERVED, State.RELEASED})


class ShotReport(BaseModel):
    """The outcome of one take of one shot.

    Attributes:
        id: The shot's id; takes after the first add `@2`, `@3` ….
        status: `stored`, or why there is no video; `held` waits for a human, `skipped` depends on a shot that failed,
            `in_flight` is left at the provider for `collect`, `waiting` is made by a later run, when the shot that it
            continues is stored or chosen, `dropped` is not wanted any more.
        uri: Address of the video.
        sha256: Its digest.
        bytes: Its size.
        cost_usd: Amount that this run paid, with or without a video; the estimate for one in flight, 0 where an earlier
            run paid, None where the price is not known.
        cached: The video was stored before.
        generation_id: The provider's id.
        error: Why there is no video, and what to do.
        degraded: How the video differs from the requested one, where a fallback or an adaptation was used.
        repair: How a video came back whose stored file was missing or damaged: fetched again, or made anew.
        quality: What the project's quality gates have found in the video; None where it has none.
        choice: Where takes are chosen among, whether this one was `chosen`, `rejected`, or the choice is `pending`.
        shot_id: The shot's id, without the number of the take.
        take: The number of the take, from 1.
        prompt: The prompt of the shot.
        metadata: The shot's labels, such as the columns of its row that are no fields.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    status: ShotStatus
    uri: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    cost_usd: Decimal | None = Decimal(0)
    cached: bool = False
    generation_id: str | None = None
    error: str | None = None
    degraded: str | None = None
    repair: str | None = None
    quality: Quality | None = None
    asset: Asset | None = None
    choice: Literal["chosen", "rejected", "pending"] | None = None
    shot_id: str = ""
    take: int = 1
    prompt: str = ""
    metadata: Mapping[str, str] = {}

    @classmethod
    def stored(cls, job_request: JobRequest, stored: StoredShot, asset: Asset) -> ShotReport:
        """Build the report of a shot that has its video."""
        return cls(
            **_describe(job_request),
            status="stored",
            uri=asset.uri,
            sha256=asset.sha256,
            bytes=asset.bytes,
            cached=stored.cached,
            generation_id=asset.generation_id,
            repair=stored.repair,
            quality=asset.quality,
            asset=asset,
        )

    @classmethod
    def failed(
        cls, job_request: JobRequest, error: Exception, *, ledger: str | None, status: ShotStatus | None = None
    ) -> ShotReport:
        """Report on a shot that has no video; `ledger` is the `--ledger` that the commands in its message need."""
        return cls(
            **_describe(job_request),
            status=status or _status_of(error),
            generation_id=getattr(error, "generation_id", None),
            error=_message_with_remedy(error, ledger),
        )

    @classmethod
    def in_flight(cls, job_request: JobRequest, detached: DetachedShot) -> ShotReport:
        """Build the report of a shot that is left at the provider."""
        return cls(
            **_describe(job_request),
            status="in_flight",
            generation_id=detached.job.generation_id,
        )

    def public(self) -> dict[str, Any]:
        """Return the fields that `--json` prints, with money as a number; some only where they are set."""
        empty = {name for name in ("degraded", "repair", "choice", "quality") if getattr(self, name) is None}
        fields = self.model_dump(mode="json", exclude={"asset", "shot_id", "take", "prompt", "metadata", *empty})
        return {**fields, "cost_usd": as_number(self.cost_usd)}

    def to_row(self) -> dict[str, Any]:
        """Return one flat row: what was asked, the outcome, the video, and the shot's labels as columns of their own.

        A label that is named like another column is called `input_…`.
        """
        fields = self.model_dump(mode="json", exclude={"asset", "id", "shot_id", "metadata", "quality"})
        measured = ("duration_seconds", "width", "height", "model", "provider")
        row = {
            "id": self.shot_id or self.id,
            **fields,
            "cost_usd": as_number(self.cost_usd),
            **{name: getattr(self.asset, name, None) for name in measured},
            "quality_score": self.quality.score if self.quality else None,
        }
        return row | {f"input_{name}" if name in row else name: value for name, value in self.metadata.items()}


class FilmReport(BaseModel):
    """The outcome of a project's final cut.

    Attributes:
        status: `made` now, `cached` from before, `failed`, or `waiting` for shots that are not stored.
        uri: Address of the film.
        seconds: Its length.
        bytes: Its size.
        sha256: Its digest.
        thumbnail_uri: JPEG still.
        sheet_uri: Contact sheet of its clips.
        preview_uri: Animated WebP or GIF.
        error: Why there is no film, and what to do; the shots are stored as their reports say.
    """

    model_config = ConfigDict(frozen=True)

    status: Literal["made", "cached", "failed", "waiting"]
    uri: str | None = None
    seconds: float | None = None
    bytes: int | None = None
    sha256: str | None = None
    thumbnail_uri: str | None = None
    sheet_uri: str | None = None
    preview_uri: str | None = None
    error: str | None = None

    @classmethod
    def of(cls, film: StoredFilm, *, cached: bool) -> FilmReport:
        """Build the report of a film that is stored."""
        return cls(
            status="cached" if cached else "made",
            seconds=film.duration_seconds,
            **film.model_dump(include={"uri", "bytes", "sha256", "thumbnail_uri", "sheet_uri", "preview_uri"}),
        )

    def summary(self) -> str:
        """Describe the film in one line."""
        if self.uri is not None:
            return f"film: {self.status}, {self.seconds:.1f} s: {self.uri}"
        return f"film: {self.status}: {self.error}"


class ProjectReport(BaseModel):
    """The outcome of a project.

    Attributes:
        project: Its name.
        shots: One report for each take of each shot, in the project's order.
        seconds: How long the run took.
        film: The outcome of its final cut; None where it has no `cut:`.
        page_uri: Address of the project's gallery page; None where none was written.
        manifest_uri: Address of its manifest.
    """

    model_config = ConfigDict(frozen=True)

    project: str
    shots: tuple[ShotReport, ...]
    seconds: float
    film: FilmReport | None = None
    page_uri: str | None = None
    manifest_uri: str | None = None

    @property
    def has_failed(self) -> bool:
        """True where a shot has no video and will have none by itself, or the film failed."""
        return bool(self.failures) or (self.film is not None and self.film.status == "failed")

    @property
    def awaits_approval(self) -> bool:
        """True where a human is to decide about a shot that is stored."""
        return any(shot.status == "stored" and shot.choice == "pending" for shot in self.shots)

    @property
    def cost_usd(self) -> Decimal:
        """The amount that this run paid, as far as prices are known."""
        return sum((shot.cost_usd for shot in self.shots if shot.cost_usd is not None), Decimal(0))

    @property
    def unpriced(self) -> int:
        """The number of shots whose price is not known; `cost_usd` leaves them out."""
        return sum(shot.cost_usd is None for shot in self.shots)

    def describe_paid(self) -> str:
        """Describe what this run paid: `$2.40 paid`, `at least $2.40 paid` or `price unknown`."""
        text = usd_sum(self.cost_usd, self.unpriced)
        return text if text == PRICE_UNKNOWN else f"{text} paid"

    @property
    def failures(self) -> tuple[ShotReport, ...]:
        """The shots that have no video and will have none by themselves."""
        return tuple(shot for shot in self.shots if shot.status not in OPEN)

    def summary(self) -> str:
        """Summarize the run in one line, and one more for each shot without a video."""
        stored = sum(shot.status == "stored" for shot in self.shots)
        in_flight = sum(shot.status == "in_flight" for shot in self.shots)
        cached = sum(shot.cached for shot in self.shots)
        head = f"{self.project}: {stored} of {len(self.shots)} stored ({cached} cached), {self.describe_paid()}"
        if in_flight:
            head += f", {in_flight} in flight"
        if waiting := sum(shot.status == "waiting" for shot in self.shots):
            head += f", {waiting} waiting"
        lines = [f"  {shot.id}: {shot.status}: {shot.error}" for shot in self.failures]
        if self.film is not None:
            lines.append(f"  {self.film.summary()}")
        return "\n".join([head, *lines])

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one flat row for each take, for a table: `pandas.DataFrame(report.to_rows())`."""
        rows = [{"project": self.project, **shot.to_row()} for shot in self.shots]
        columns = dict.fromkeys(name for row in rows for name in row)
        return [{name: row.get(name) for name in columns} for row in rows]

    def public(self) -> dict[str, Any]:
        """Return the one object that `--json` prints; `film` and `unpriced` only where there is something to say."""
        film = {} if self.film is None else {"film": self.film.model_dump(mode="json")}
        return {
            "project": self.project,
            "shots": [shot.public() for shot in self.shots],
            **film,
            "cost_usd": as_number(self.cost_usd),
            **({"unpriced": self.unpriced} if self.unpriced else {}),
            "seconds": round(self.seconds, 3),
        }


async def add_costs(
    reports: Sequence[ShotReport],
    job_requests: Sequence[JobRequest],
    ledger: Ledger,
    *,
    flow_run_id: str,
    since: datetime,
    made_at_once: Sequence[Job] = (),
) -> tuple[ShotReport, ...]:
    """Add to the reports of a run what it paid for each shot: a generation is paid for by the run that sent it.

    Args:
        reports: One for each job request.
        job_requests: The requests of the run.
        ledger: The ledger that holds its jobs.
        flow_run_id: The run. A job that it has taken over is recorded under it too, hence `since`.
        since: When it began; an earlier run paid for what was sent before.
        made_at_once: The jobs of shots for which nothing else was tried; where all shots that are not cached have one,
            the ledger is not read.
    """
    bought = sum(not report.cached for report in reports)
    if not bought:
        return tuple(reports)
    try:
        if len(made_at_once) == bought:
            jobs = [job for job in made_at_once if job.flow_run_id == flow_run_id]
        else:
            jobs = await ledger.jobs.find(flow_run_id=flow_run_id, limit=None)
    except LedgerError as error:
        logger.warning("the cost of this run is not known: %s", error)
        return tuple(report if report.cached else report.model_copy(update={"cost_usd": None}) for report in reports)
    paid = _paid((job for job in jobs if job.sent_at and job.sent_at >= since), job_requests)
    return tuple(report.model_copy(update={"cost_usd": paid.get(report.id, Decimal(0))}) for report in reports)


def _paid(sent: Iterable[Job], job_requests: Sequence[JobRequest]) -> Mapping[str, Decimal | None]:
    """Add up what was paid for each take, by its label; None where a price is not known."""
    # A job may bear the name of another shot that requested the same video; a fallback's job bears its own.
    labels = {job_request.fingerprint: take_label(job_request) for job_request in reversed(job_requests)}
    paid: dict[str, Decimal | None] = {}
    for job in sent:
        if job.state not in _UNPAID:
            name = labels.get(job.fingerprint) or take_label(job)
            cost = job.cost_usd
            before = paid.get(name, Decimal(0))
            paid[name] = None if cost is None or before is None else before + cost
    return paid


def _describe(job_request: JobRequest) -> dict[str, Any]:
    """Return the fields of a report that are known before there is an outcome."""
    shot = job_request.shot
    return {
        "id": take_label(job_request),
        "shot_id": shot.id,
        "take": job_request.take,
        "prompt": shot.prompt,
        "metadata": shot.metadata,
    }


def take_label(job_request: JobRequest | Job) -> str:
    """Name a take of a shot as reports do: `opening`, `opening@2`."""
    return job_request.shot.id if job_request.take == 1 else f"{job_request.shot.id}@{job_request.take}"


_NEXT_STEPS: Final[Mapping[type[Exception], tuple[str, tuple[str, ...]]]] = {
    ContentPolicyError: ("Change the prompt; see: {command}", ("review",)),
    AuthenticationFailed: ("Correct the key and run again", ()),
    QuotaExhausted: ("Wait for the next period, or use another account", ()),
    GenerationBlocked: ("Change the prompt; see: {command}", ("review",)),
    GenerationInvalid: ("Correct the shot: as it is, it would fail again", ()),
    GenerationFailed: ("Run again to buy another attempt", ()),
    VideoRejected: ("Look at it, then take it as it is; or run again with more `max_attempts` or another prompt", ()),
    GenerationCancelled: ("Run again to buy it anew", ()),
    ProviderUnavailable: ("Run again later", ()),
    DownloadError: ("It is paid and kept: run again, or fetch it with: {command}", ("collect",)),
    StoreError: ("It is paid and kept: run again, or store it with: {command}", ("collect",)),
    DeadlineExceeded: ("To do so, run: {command}", ("collect",)),
}
"""The next step after an error, and the command in it."""


def _message_with_remedy(error: Exception, ledger: str | None) -> str:
    """Return the error's message with the next step, unless it names one itself."""
    text = str(error) or type(error).__name__
    step = next((step for kind, step in _NEXT_STEPS.items() if isinstance(error, kind)), None)
    if step is None or f"{PROGRAM} " in text:
        return text
    advice, words = step
    return f"{text.rstrip('. ')}. {advice.format(command=command_line(*words, ledger=ledger))}"


def _status_of(error: Exception) -> ShotStatus:
    if isinstance(error, BudgetExceeded):
        return "over_budget"
    if isinstance(error, GenerationCancelled):
        return "cancelled"
    needs_a_human = (HeldForReview, DeadlineExceeded, GenerationExpired, GenerationLost)
    return "held" if isinstance(error, needs_a_human) else "failed"
