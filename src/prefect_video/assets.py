"""A stored video and the sidecar that describes it."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class Asset(BaseModel):
    """A published video: whole, verified, at an address that does not expire.

    Attributes:
        uri: `file://…` or `s3://…` of the MP4.
        thumbnail_uri: The same for a JPEG still.
        sidecar_uri: The same for the JSON file that holds this record.
        sha256: Hex digest of the MP4.
        bytes: Its size.
        duration_seconds: Measured length.
        width: Pixels.
        height: Pixels.
        project: Name of the project.
        shot_id: Id of the shot.
        take: 1 for the first take.
        fingerprint: The prompt hash it was made for.
        prompt: The prompt it was made from.
        model: The model that made it.
        provider: The provider that made it.
        generation_id: The provider's id of the generation.
        cost_usd: What it cost when it was made; None when the provider did not say.
        created_at: When it was published.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    uri: str
    thumbnail_uri: str | None = None
    sidecar_uri: str | None = None
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0)
    duration_seconds: float
    width: int
    height: int
    project: str
    shot_id: str
    take: int = 1
    fingerprint: str
    prompt: str
    model: str
    provider: str
    generation_id: str
    cost_usd: Decimal | None = None
    created_at: AwareDatetime
