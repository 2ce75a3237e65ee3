"""Manifest: the record of a project in its folder of the store, from which the gallery page is made."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError

from prefect_video.assets import ContentCredentials

MANIFEST_NAME: Final = "manifest.json"
PAGE_NAME: Final = "index.html"

TakeStatus = Literal[
    "stored", "failed", "cancelled", "held", "over_budget", "skipped", "in_flight", "waiting", "dropped", "pending"
]
"""Status of a take as reports name it; `pending` is a take that no run has begun."""


def _as_number(amount: Decimal) -> int | float:
    return int(amount) if amount == amount.to_integral_value() else float(amount)


Usd = Annotated[Decimal, PlainSerializer(_as_number, return_type=float, when_used="json")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class VideoFile(_Record):
    """Stored video.

    Attributes:
        path: Path of the MP4, relative to the manifest's folder, with `/`; None where it lies outside of the store.
        thumbnail: Path of a JPEG still.
        sidecar: Path of the JSON sidecar.
        sha256: Hexadecimal SHA-256 of the MP4.
        bytes: Size of the MP4.
        duration_seconds: Measured length.
        width: Width in pixels.
        height: Height in pixels.
        stored_at: Time of publication.
        notes: What is odd about it and was accepted.
        quality: Score of its quality gates, from 0 to 1; None where it had none.
        findings: The respects in which it fails them.
        content_credentials: Its C2PA manifest; None where none was looked for.
    """

    path: str | None
    thumbnail: str | None = None
    sidecar: str | None = None
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0)
    duration_seconds: float
    width: int
    height: int
    stored_at: AwareDatetime
    notes: tuple[str, ...] = ()
    quality: float | None = None
    findings: tuple[str, ...] = ()
    content_credentials: ContentCredentials | None = None


class TakeRecord(_Record):
    """One take of a shot, or an earlier version of one.

    Attributes:
        take: Number of the take, from 1.
        status: `stored`, or why there is no video.
        prompt: The prompt that was sent.
        provider: Provider that makes it.
        model: The provider's name of the model.
        generation_id: The provider's id of the generation.
        job_id: Id of the job in the ledger.
        fingerprint: Prompt hash of shot and take.
        attempts: Generations that were sent for this fingerprint.
        cost_usd: Cost of all its attempts; None where a price is not known.
        reserved_at: Time of the reservation.
        sent_at: Time of the submit.
        completed_at: Time at which the provider was done.
        error: Why there is no video.
        remedy: What to do about it.
        degraded: How the video differs from the request.
        chosen: Whether this take was chosen among several; None where no choice was made.
        video: The stored video.
    """

    take: int = Field(default=1, ge=1)
    status: TakeStatus
    prompt: str
    provider: str | None = None
    model: str
    generation_id: str | None = None
    job_id: str | None = None
    fingerprint: str | None = None
    attempts: int = 0
    cost_usd: Usd | None = Decimal(0)
    reserved_at: AwareDatetime | None = None
    sent_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None
    error: str | None = None
    remedy: str | None = None
    degraded: str | None = None
    chosen: bool | None = None
    video: VideoFile | None = None

    @property
    def generation_seconds(self) -> float | None:
        """Time that the provider took, from the submit to the end; None where it is not known."""
        if self.sent_at is None or self.completed_at is None:
            return None
        return max(0.0, (self.completed_at - self.sent_at).total_seconds())


class ShotRecord(_Record):
    """Shot of a project with its takes.

    Attributes:
        id: The shot's id.
        prompt: Its prompt.
        depends_on: Ids of the shots that must be stored before it, that which it continues included.
        request: What else was requested, where it differs from the defaults.
        in_project: Whether the shot is still part of the project; a removed one keeps its videos.
        takes: Its takes, in order.
        earlier: Earlier versions and attempts, newest first.
    """

    id: str
    prompt: str
    depends_on: tuple[str, ...] = ()
    request: dict[str, Any] = Field(default_factory=dict)
    in_project: bool = True
    takes: tuple[TakeRecord, ...]
    earlier: tuple[TakeRecord, ...] = ()


class SpendRecord(_Record):
    """Money of a project, all runs together.

    Attributes:
        spent_usd: Cost of what is finished.
        reserved_usd: What is set aside for generations in progress.
        assumed_usd: The part of what was spent that the provider has not reported.
        unpriced: Generations whose price is not known.
        budget_usd: The project's limit in USD; None for none.
        budget_videos: The project's limit in generations; None for none.
        videos: Generations that were paid or are reserved.
    """

    spent_usd: Usd = Decimal(0)
    reserved_usd: Usd = Decimal(0)
    assumed_usd: Usd = Decimal(0)
    unpriced: int = 0
    budget_usd: Usd | None = None
    budget_videos: int | None = None
    videos: int = 0


class FilmRecord(_Record):
    """Final cut of a project.

    Attributes:
        title: Its title; None for the project's name.
        path: Path of the MP4, relative to the manifest's folder.
        thumbnail: Path of a still.
        sha256: Hexadecimal SHA-256 of the MP4.
        bytes: Size of the MP4.
        duration_seconds: Measured length.
        width: Width in pixels.
        height: Height in pixels.
        content_credentials: Its C2PA manifest; None where none was looked for.
    """

    title: str | None = None
    path: str
    thumbnail: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    bytes: int | None = None
    duration_seconds: float | None = None
    width: int | None = None
    height: int | None = None
    content_credentials: ContentCredentials | None = None


class Manifest(_Record):
    """Record of a project: its shots, takes, prompts, costs, digests and dependencies. It holds no secrets.

    Attributes:
        schema_version: Version of this form.
        project: Name of the project.
        made_at: Time at which the manifest was made.
        generator: Program that made it.
        ledger: Identity of the ledger that paid.
        store: Identity of the store; None for a store without a marker.
        spend: The money.
        film: The final cut; None where there is none.
        shots: The shots in the project's order, then those that were removed from it.
    """

    schema_version: Literal[1] = 1
    project: str
    made_at: AwareDatetime
    generator: str
    ledger: str
    store: str | None = None
    spend: SpendRecord = SpendRecord()
    film: FilmRecord | None = None
    shots: tuple[ShotRecord, ...]

    @property
    def takes(self) -> list[TakeRecord]:
        """All takes of the shots that are part of the project."""
        return [take for shot in self.shots if shot.in_project for take in shot.takes]

    @property
    def videos(self) -> list[VideoFile]:
        """All stored videos, those of earlier versions and removed shots included."""
        return [take.video for shot in self.shots for take in (*shot.takes, *shot.earlier) if take.video]


def write_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as indented UTF-8 JSON."""
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def read_manifest(content: bytes) -> Manifest | None:
    """Return the manifest that a file holds; None if it is not one that this version can read."""
    try:
        return Manifest.model_validate_json(content)
    except ValidationError:
        return None


def manifest_schema() -> dict[str, Any]:
    """Build the JSON Schema of manifests."""
    schema = Manifest.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "prefect-video manifest"}
