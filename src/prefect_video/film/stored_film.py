"""Record of a film in the store: its sidecar, with everything that went into it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from prefect_video.assets import ContentCredentials

PROVENANCE_NOTE: Final = (
    "C2PA manifests and watermarks in metadata are of the clips as the provider delivered them; a film has none of"
    " them: see its ingredients"
)
SIGNED_NOTE: Final = (
    "the film is signed, with its clips as ingredients; watermarks in metadata and the clips' own C2PA manifests are in"
    " the clips as the provider delivered them"
)


FILM_VERSION: Final = "1"
"""Version of what this room makes of a cut; it changes with every change that is seen or heard."""


def describe_software() -> dict[str, str]:
    """Return the versions of what decides how a film looks; with others it is made anew."""
    return {"film": FILM_VERSION, "av": version("av"), "pillow": version("pillow")}


class Ingredient(BaseModel):
    """Stored clip that a film was made from.

    Attributes:
        shot_id: Id of the shot.
        take: Number of the take.
        fingerprint: Prompt hash of the shot and take.
        sha256: Digest of the clip.
        uri: Address of the clip.
        provider: Provider that generated it.
        model: Model that generated it.
        generation_id: The provider's id of the generation.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    shot_id: str
    take: int
    fingerprint: str
    sha256: str
    uri: str
    provider: str
    model: str
    generation_id: str


class StoredFilm(BaseModel):
    """Published final cut: whole, decoded and measured, at an address that does not expire.

    Attributes:
        schema_version: Version of this record.
        kind: Distinguishes it from the sidecar of a shot.
        project: Name of the project.
        uri: Address of the film.
        thumbnail_uri: JPEG still.
        sheet_uri: JPEG with one picture of every clip.
        preview_uri: Animated WebP or GIF.
        sidecar_uri: JSON file with this record.
        sha256: Digest of the film.
        bytes: Its size.
        duration_seconds: Measured length.
        width: Width in pixels.
        height: Height in pixels.
        fps: Frames per second.
        frames: Number of frames.
        codec: Video codec.
        sound: Whether it has sound.
        loudness_lufs: Measured integrated loudness by EBU R128; None for silence.
        stream_copy: Its clips were joined without encoding.
        digest: Digest of everything that went in: the cut, the clips, other files, versions.
        cut: The requested cut, as in the project file.
        ingredients: The clips, in the order in which they are first seen.
        files: Digests of the other files: music, captions, font.
        software: Versions that it was made with.
        content_credentials: Its own C2PA manifest; None where it is not signed.
        note: What is to be known of its provenance.
        created_at: Time of publication.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    kind: Literal["film"] = "film"
    project: str
    uri: str
    thumbnail_uri: str
    sheet_uri: str
    preview_uri: str
    sidecar_uri: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0)
    duration_seconds: float
    width: int
    height: int
    fps: float
    frames: int
    codec: str
    sound: bool
    loudness_lufs: float | None = None
    stream_copy: bool
    digest: str
    cut: dict[str, Any]
    ingredients: tuple[Ingredient, ...]
    files: dict[str, str]
    software: dict[str, str]
    content_credentials: ContentCredentials | None = None
    note: str = PROVENANCE_NOTE
    created_at: AwareDatetime
