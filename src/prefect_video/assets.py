"""Assets: stored videos, and the sidecars that describe them."""

from __future__ import annotations

from decimal import Decimal
from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from prefect_video.quality import Quality

MANUAL: Final = "manual"
"""Provider, account and credentials of a video that was made by hand: no one is paid for it, or can send it again."""


class ContentCredentials(BaseModel):
    """C2PA manifest of a video: whether there is one, whether it holds, and what it says.

    Attributes:
        state: `trusted` and `valid` hold, the former by a certificate on a trust list; `invalid` does not fit the file
            or is damaged; `absent`: there is none.
        promised: The provider promises one, so that its absence is a flaw.
        signed_by: Name in the certificate that signed it.
        generator: Program that it names as its maker.
        source_types: Digital source types of its actions, such as `trainedAlgorithmicMedia`.
        problems: What does not hold, in the words of the standard.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: Literal["trusted", "valid", "invalid", "absent"]
    promised: bool = False
    signed_by: str | None = None
    generator: str | None = None
    source_types: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def flaw(self) -> str | None:
        """The flaw of its manifest in one sentence; None where there is none."""
        if self.state == "invalid":
            return f"its C2PA manifest does not hold: {', '.join(self.problems) or 'no reason given'}"
        if self.state == "absent" and self.promised:
            return "it has no C2PA manifest, although the provider promises one"
        return None


class Asset(BaseModel):
    """Published video: whole, verified, at an address that does not expire.

    Attributes:
        schema_version: Version of this record in sidecars.
        uri: `file://…` or `s3://…` address of the MP4.
        thumbnail_uri: Address of a JPEG still.
        sidecar_uri: Address of the JSON file with this record.
        sha256: Hexadecimal SHA-256 of the MP4.
        bytes: Size of the MP4 in bytes.
        duration_seconds: Measured length.
        width: Width in pixels.
        height: Height in pixels.
        project: Name of the project.
        shot_id: Id of the shot.
        take: Number of the take, from 1.
        fingerprint: Prompt hash of the shot and take.
        prompt: Prompt of the shot.
        model: Model that generated it.
        provider: Provider that generated it.
        generation_id: The provider's id of the generation.
        cost_usd: Cost of the generation; None when the provider did not report it.
        created_at: Time of publication.
        notes: What is odd about the video, or not as requested, and was accepted.
        origin: `generated`, or made `by hand`.
        quality: What the quality gates of its project have found; None where it had none.
        content_credentials: Its C2PA manifest; None where none was looked for.
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
    notes: tuple[str, ...] = ()
    origin: Literal["generated", "by hand"] = "generated"
    quality: Quality | None = None
    content_credentials: ContentCredentials | None = None
