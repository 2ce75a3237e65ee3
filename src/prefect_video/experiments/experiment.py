"""The common part of all experiments: the project that is bought, its plan, and the measurement that is kept."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from prefect_video._counted import counted
from prefect_video.errors import InvalidInput
from prefect_video.experiments.charts import Chart, draw_chart
from prefect_video.fingerprints import canonical_json
from prefect_video.frame_sizes import Resolution
from prefect_video.inputs import Input
from prefect_video.ledger import Job, State
from prefect_video.pipeline import Plan, plan_project
from prefect_video.pipeline.steps import build_project_job_requests
from prefect_video.projects import Project
from prefect_video.providers import Capabilities
from prefect_video.session import Session
from prefect_video.shots import Identifier, Shot
from prefect_video.storage import NewFile, Store

DEFAULT_BUDGET_USD: Final = Decimal(10)
_NAME: Final = "measurement"
_PROMPT: Final = "Ocean waves rolling onto a beach at sunset, aerial view"


Seconds = Annotated[int, Field(ge=1, le=60, strict=True)]
"""Length of a video in whole seconds."""


class Experiment(Input, ABC):
    """Plan of a measurement, and the most that it may cost.

    Attributes:
        model: The provider's name of the model.
        resolution: The resolution; None for the lowest that is offered, which is the cheapest.
        project: Name of the project in ledger and store; None for `experiment-` and the experiment's name.
        budget_usd: The most that all runs of this experiment may commit, in USD; reserved in the ledger.
    """

    name: ClassVar[str]
    incidental: ClassVar[frozenset[str]] = frozenset({"budget_usd", "project"})
    """Fields that do not change what is measured."""

    model: str = Field(default="sora-2", min_length=1, max_length=200)
    resolution: Resolution | None = None
    project: Identifier | None = None
    budget_usd: Decimal = Field(default=DEFAULT_BUDGET_USD, ge=0)

    @abstractmethod
    def build_shots(self, session: Session) -> tuple[Shot, ...]:
        """Build the shots that are bought.

        Raises:
            InvalidInput: The account makes no such videos.
        """

    def build_project(self, session: Session) -> Project:
        """Build the project that is bought: a failed generation is not tried again, as it would cost more than stated.

        Raises:
            InvalidInput: The account makes no such videos.
        """
        name = self.project or f"experiment-{self.name}"
        return Project(name=name, shots=self.build_shots(session), budget_usd=self.budget_usd, max_attempts=1)

    def build_shot(self, session: Session, shot_id: str, prompt: str = "", **fields: Any) -> Shot:
        """Build one shot at the experiment's model and resolution."""
        size = self.resolution or self.choose_resolution(session)
        return Shot(id=shot_id, prompt=prompt or _PROMPT, model=self.model, resolution=size, **fields)

    def choose_resolution(self, session: Session) -> Resolution:
        """Return the lowest resolution that the account offers for the model."""
        sizes = self.capabilities(session).sizes
        if not sizes:
            raise InvalidInput(f"model {self.model!r}: {session.account_name} offers no resolution; give another model")
        return min(sizes, key=lambda size: int(size[:-1]))

    def choose_seconds(self, session: Session, wanted: Iterable[int]) -> list[int]:
        """Return the lengths that the account offers, of those that are wanted or else of all that it has.

        Raises:
            InvalidInput: It offers none that is known.
        """
        offered = self.capabilities(session)
        size = self.resolution or self.choose_resolution(session)
        longest = offered.sizes.get(size, max(offered.sizes.values(), default=0))
        allowed = [seconds for seconds in sorted(offered.durations or wanted) if seconds <= longest]
        if not allowed:
            raise InvalidInput(f"model {self.model!r}: {session.account_name} makes at most {longest} s at {size}")
        return allowed

    def capabilities(self, session: Session) -> Capabilities:
        """Return what the account offers for the model."""
        return session.provider.capabilities_for(Shot(id="probe", prompt=_PROMPT, model=self.model))

    def digest(self, session: Session) -> str:
        """Return the SHA-256 of what is measured: a measurement with the same one answers the same question."""
        fields = self.model_dump(mode="json", exclude=set(self.incidental))
        shots = [shot.model_dump(mode="json") for shot in self.build_shots(session)]
        text = canonical_json(
            {"experiment": self.name, "account": session.provider.account.id, **fields, "shots": shots}
        )
        return hashlib.sha256(text.encode()).hexdigest()


class Measurement(BaseModel, ABC):
    """Finding of an experiment.

    Attributes:
        experiment: Name of the experiment.
        project: The project in ledger and store.
        provider: Name of the provider.
        model: The model.
        digest: SHA-256 of what was measured.
        measured_at: When it was measured.
        cost_usd: What this run paid, as far as prices are known.
        reused: It is an earlier run's; nothing was sent.
        failures: Why videos are missing in it, one line each.
    """

    model_config = ConfigDict(frozen=True)

    experiment: str
    project: str
    provider: str
    model: str
    digest: str
    measured_at: AwareDatetime
    cost_usd: Decimal = Decimal(0)
    reused: bool = False
    failures: tuple[str, ...] = ()

    @property
    @abstractmethod
    def summary(self) -> str:
        """The finding in one sentence."""

    @abstractmethod
    def table(self) -> list[dict[str, str]]:
        """Return the finding as rows of text, all with the same columns."""

    @abstractmethod
    def chart(self) -> Chart:
        """Return the finding as a chart."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the finding."""
        return ()

    @property
    def is_complete(self) -> bool:
        """True where the measurement answers the question, so that it need not be made again."""
        return not self.failures


MeasurementT = TypeVar("MeasurementT", bound=Measurement)


@dataclass(frozen=True)
class ExperimentPlan:
    """The outcome and cost of an experiment that is not started.

    Attributes:
        project: The project that would be bought.
        plan: Its plan, with what is stored already.
        measurement: The measurement of an earlier run, which is shown instead; None where there is none.
    """

    project: Project
    plan: Plan
    measurement: Measurement | None

    @property
    def buys(self) -> int:
        """Number of generations that would be bought."""
        return 0 if self.measurement else sum(shot.action == "generate" for shot in self.plan.shots)


async def build_plan(
    session: Session, experiment: Experiment, kind: type[MeasurementT], *, refresh: bool
) -> ExperimentPlan:
    """Build the plan of an experiment; nothing is reserved or sent.

    Args:
        session: The account that would be measured.
        experiment: What would be measured.
        kind: What a measurement of it is read into.
        refresh: Measure anew.

    Raises:
        InvalidInput: The account makes no such videos.
        LedgerError: The ledger cannot be read.
        StoreError: The store cannot be read.
    """
    project = experiment.build_project(session)
    found = None if refresh else await load_measurement(session.store, project.name, kind)
    if found is not None and found.digest != experiment.digest(session):
        found = None
    return ExperimentPlan(project, await plan_project(session, project, refresh=refresh), found)


async def load_measurement(store: Store, project: str, kind: type[MeasurementT]) -> MeasurementT | None:
    """Read the last complete measurement of an experiment; None where there is none that can be read.

    Raises:
        StoreError: The store cannot be read.
    """
    try:
        content = await store.read_bytes(f"{store.url}/{project}/{_NAME}.json")
        return kind.model_validate_json(content).model_copy(update={"reused": True, "cost_usd": Decimal(0)})
    except (FileNotFoundError, ValidationError):
        return None


async def publish_measurement(store: Store, measurement: Measurement) -> tuple[str | None, bytes | None]:
    """Keep a measurement beside its videos, with its chart where that can be drawn.

    Returns:
        Address and content of the chart; None without `matplotlib`.

    Raises:
        StoreError: The store cannot be written.
    """
    picture = await asyncio.to_thread(draw_chart, measurement.chart())
    folder = PurePosixPath(measurement.project)
    files: list[NewFile] = []
    if picture is not None:
        files.append(NewFile(picture, folder / f"{_NAME}.png", "image/png"))
    if measurement.is_complete:
        content = measurement.model_dump_json(indent=2).encode()
        files.append(NewFile(content, folder / f"{_NAME}.json", "application/json"))
    uris = await store.publish_all(files) if files else []
    return (uris[0] if picture is not None else None), picture


def describe_failures(project: Project, jobs: Sequence[Job]) -> tuple[str, ...]:
    """Return why videos of an experiment's project are missing, one line each."""
    takes = sum(shot.takes for shot in project.shots)
    never_begun = (f"not begun: {counted(takes - len(jobs), 'video')}",) if len(jobs) < takes else ()
    reasons = tuple(
        f"{job.shot.id}: {job.error_type or job.state.value}: {job.hold_reason or job.error_message or job.state.value}"
        for job in jobs
        if job.asset is None
    )
    return (*reasons, *never_begun)


async def find_jobs(session: Session, project: Project) -> list[Job]:
    """Return the newest job of each take of an experiment's project at its account; of another project's, if it serves.

    A take that no job was begun for is left out.
    """
    newest: dict[tuple[str, int], Job] = {}
    for job in await session.ledger.jobs.find(project=project.name, limit=None):
        place = (job.shot.id, job.take)
        if job.account == session.provider.account.id and (
            place not in newest or job.created_at > newest[place].created_at
        ):
            newest[place] = job
    requests = await build_project_job_requests(session, project)
    existing = await session.ledger.jobs.find_existing(requests)
    found: list[Job | None] = []
    for request, other in zip(requests, existing, strict=True):
        own = newest.get((request.shot.id, request.take))
        found.append(other if own is None or (own.state is State.RELEASED and other is not None) else own)
    return [job for job in found if job is not None]


def sum_paid(jobs: Iterable[Job], since: datetime) -> Decimal:
    """Return what the jobs cost that were sent since a time, as far as prices are known."""
    costs = [job.cost_usd for job in jobs if job.sent_at is not None and job.sent_at >= since]
    return sum((cost for cost in costs if cost is not None), Decimal(0))
