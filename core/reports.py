"""What a run of a project came to, for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from prefect_video.assets import Asset
from prefect_video.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    DeadlinePassed,
    DownloadError,
    GenerationCancelled,
    GenerationExpired,
    GenerationFailed,
    GenerationLost,
    NeedsAttention,
    PolicyRefused,
    ProviderUnavailable,
    QuotaExhausted,
    ShotsFailed,
    StoreError,
)
from prefect_video.ledger import Entry, Intent
from prefect_video.steps import Produced
from prefect_video.steps.producing import InFlight

ShotStatus = Literal["stored", "failed", "cancelled", "held", "over_budget", "skipped", "in_flight"]


class ShotReport(BaseModel):
    """What became of one take of one shot.

    Attributes:
        id: The shot's id; takes after the first add `@2`, `@3` ….
        status: `stored`, or why not; `held` waits for a human, `skipped` depends on a shot that failed,
            `in_flight` is left at the provider for `collect`.
        uri: Where the video is.
        sha256: Its digest.
        bytes: Its size.
        cost_usd: What this run paid for it, video or not; what is expected for one in flight, 0 where an earlier run
            paid, None when the price is not known.
        cached: Whether it was stored before.
        generation_id: The provider's id.
        error: Why there is no video, and what to do.
        degraded: How the video differs from what was wanted, where a fallback or an adaptation was used.
        repair: How a video came back whose stored file was missing or damaged: fetched again, or made anew.
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
    asset: Asset | None = None

    @classmethod
    def stored(cls, intent: Intent, produced: Produced, asset: Asset) -> ShotReport:
        """The report of a shot that has its video."""
        return cls(
            id=label(intent),
            status="stored",
            uri=asset.uri,
            sha256=asset.sha256,
            bytes=asset.bytes,
            cached=produced.cached,
            generation_id=asset.generation_id,
            repair=produced.repair,
            asset=asset,
        )

    @classmethod
    def failed(cls, intent: Intent, error: Exception, *, status: ShotStatus | None = None) -> ShotReport:
        """The report of a shot that has no video."""
        return cls(
            id=label(intent),
            status=status or _status_of(error),
            generation_id=getattr(error, "generation_id", None),
            error=_told(error),
        )

    @classmethod
    def in_flight(cls, intent: Intent, left: InFlight) -> ShotReport:
        """The report of a shot that is left at the provider."""
        return cls(
            id=label(intent),
            status="in_flight",
            generation_id=left.entry.generation_id,
        )

    def public(self) -> dict[str, Any]:
        """The fields that `--json` prints, with money as a number; `degraded` and `repair` only where there are any."""
        empty = {name for name in ("degraded", "repair") if getattr(self, name) is None}
        fields = self.model_dump(mode="json", exclude={"asset", *empty})
        return {**fields, "cost_usd": as_number(self.cost_usd)}


class ProjectReport(BaseModel):
    """What became of a project.

    Attributes:
        project: Its name.
        shots: One report for each take of each shot, in the project's order.
        seconds: How long the run took.
    """

    model_config = ConfigDict(frozen=True)

    project: str
    shots: tuple[ShotReport, ...]
    seconds: float

    @property
    def cost_usd(self) -> Decimal:
        """What this run paid, as far as prices are known."""
        return sum((shot.cost_usd for shot in self.shots if shot.cost_usd is not None), Decimal(0))

    @property
    def failures(self) -> tuple[ShotReport, ...]:
        """The shots that have no video and will have none by themselves."""
        return tuple(shot for shot in self.shots if shot.status not in ("stored", "in_flight"))

    def summary(self) -> str:
        """One line, and one more for each shot without a video."""
        stored = sum(shot.status == "stored" for shot in self.shots)
        in_flight = sum(shot.status == "in_flight" for shot in self.shots)
        cached = sum(shot.cached for shot in self.shots)
        head = f"{self.project}: {stored} of {len(self.shots)} stored ({cached} cached), ${self.cost_usd:.2f} paid"
        if in_flight:
            head += f", {in_flight} in flight"
        return "\n".join([head, *(f"  {shot.id}: {shot.status}: {shot.error}" for shot in self.failures)])

    def public(self) -> dict[str, Any]:
        """The one object that `--json` prints."""
        return {
            "project": self.project,
            "shots": [shot.public() for shot in self.shots],
            "cost_usd": as_number(self.cost_usd),
            "seconds": round(self.seconds, 3),
        }


class ProjectFailed(ShotsFailed):
    """A project ended with shots that were not stored; `report` tells of all of them."""

    def __init__(self, report: ProjectReport) -> None:
        super().__init__(report.summary())
        self.report = report


def label(intent: Intent | Entry) -> str:
    """How a take of a shot is called in reports: `opening`, `opening@2`."""
    return intent.shot.id if intent.take == 1 else f"{intent.shot.id}@{intent.take}"


def as_number(amount: Decimal | None) -> float | int | None:
    """An amount as a JSON number."""
    if amount is None:
        return None
    return int(amount) if amount == amount.to_integral_value() else float(amount)


_NEXT_STEPS: Final[Mapping[type[Exception], str]] = {
    PolicyRefused: "Change the prompt; see: prefect-video review",
    AuthenticationFailed: "Correct the key and run again",
    QuotaExhausted: "Wait for the next period, or use another account",
    GenerationFailed: "Run again to buy another attempt",
    GenerationCancelled: "Run again to buy it anew",
    ProviderUnavailable: "Run again later",
    DownloadError: "It is paid and kept: prefect-video collect fetches it, or run again",
    StoreError: "It is paid and kept: prefect-video collect stores it, or run again",
}


def _told(error: Exception) -> str:
    """The error's message with the next step, unless it names one itself."""
    text = str(error) or type(error).__name__
    step = next((step for kind, step in _NEXT_STEPS.items() if isinstance(error, kind)), None)
    return text if step is None or "prefect-video " in text else f"{text.rstrip('. ')}. {step}"


def _status_of(error: Exception) -> ShotStatus:
    if isinstance(error, BudgetExceeded):
        return "over_budget"
    if isinstance(error, GenerationCancelled):
        return "cancelled"
    needs_a_human = (NeedsAttention, DeadlinePassed, GenerationExpired, GenerationLost)
    return "held" if isinstance(error, needs_a_human) else "failed"
