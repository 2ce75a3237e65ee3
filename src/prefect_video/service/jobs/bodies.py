"""Bodies of the job API's requests."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final

from pydantic import AliasChoices, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.config import JsonDict

from prefect_video.errors import InvalidInput
from prefect_video.fingerprints import canonical_json
from prefect_video.frame_sizes import AspectRatio, Resolution
from prefect_video.inputs import Input
from prefect_video.ledger import Priority
from prefect_video.projects import Project
from prefect_video.session import DEFAULT_PROJECT
from prefect_video.shots import Duration, Identifier, Options, Prompt, Seed, Shot, is_web_address, slug

BATCH_LIMIT: Final = 100
_TEXT: Final = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$"
_TEXT_AND_INK: Final[JsonDict] = {"pattern": _TEXT, "allOf": [{"pattern": r"\S"}]}
"""What validation says of a prompt, for readers of the schema: not blank, and no control characters."""

CallbackUrl = Annotated[str, StringConstraints(max_length=2_000, pattern=r"^https?://[!-~]+$", strict=True)]
"""Address that is called when a job or a project has ended."""

ImageUrl = Annotated[str, StringConstraints(pattern=r"^https://", max_length=4096, strict=True)]
"""URL of an image; no path, as a client must not read the files of the service's machine."""

_LABELS: Final = 50


class GenerateBody(Input):
    """The body of `POST /v1/jobs` and `POST /generate`: one requested video.

    Attributes:
        prompt: What the video shows.
        duration: Length in whole seconds.
        first_frame: The image with which the video begins; a URL, as files are those of the service's machine.
        last_frame: The image with which it ends; a URL too.
        references: Images of what is to be seen; URLs too.
        audio: Whether the video has sound, where that can be chosen.
        watermark: Whether the provider's visible mark is in the picture, where that can be chosen.
        options: Further input of the provider's model, sent as it is.
        project: The folder in the store and the name in the ledger (`project_id` is accepted too).
        id: The shot's name; by default derived from the prompt.
        take: The number of the take, from 1: each is an independent video of the same shot.
        provider: The account, where the service has several; by default the first.
        priority: The rank among the requests that wait for one of the account's slots.
        user_id: The user on whose behalf the video is requested; stored as a label.
        metadata: Further labels.
        callback_url: An address that is called, signed, when the job has ended.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prompt": "a cat on a skateboard", "duration": 4, "resolution": "720p", "project": "cats"}]
        }
    )

    prompt: Prompt = Field(json_schema_extra=_TEXT_AND_INK)
    duration: Duration = 10
    aspect_ratio: AspectRatio = "16:9"
    resolution: Resolution = "1080p"
    model: Annotated[str, StringConstraints(min_length=1, max_length=200)] = "sora-2"
    seed: Seed | None = None
    negative_prompt: Prompt | None = Field(default=None, json_schema_extra={"pattern": _TEXT})
    first_frame: ImageUrl | None = None
    last_frame: ImageUrl | None = None
    references: tuple[ImageUrl, ...] = Field(default=(), max_length=20)
    audio: bool | None = Field(default=None, strict=True)
    watermark: bool | None = Field(default=None, strict=True)
    options: Options = Field(default_factory=dict)
    project: Identifier = Field(default=DEFAULT_PROJECT, validation_alias=AliasChoices("project", "project_id"))
    id: Identifier | None = None
    take: int = Field(default=1, ge=1, le=10, strict=True)
    provider: str | None = Field(default=None, max_length=200)
    priority: Priority = "normal"
    user_id: str | None = Field(default=None, max_length=200)
    metadata: dict[str, str] = Field(default_factory=dict, max_length=_LABELS)
    callback_url: CallbackUrl | None = None

    @property
    def digest(self) -> str:
        """The SHA-256 of all fields that differ from their defaults, equal for every spelling of the same request."""
        return digest_of(self.model_dump(mode="json", exclude_defaults=True))

    def build_shot(self) -> Shot:
        """Build the requested shot.

        Raises:
            InvalidInput: A field does not fit the others.
        """
        fields = self.model_dump(exclude={"project", "take", "provider", "priority", "user_id", "id", "callback_url"})
        labels = {**self.metadata, **({"user_id": self.user_id} if self.user_id else {})}
        try:
            return Shot(**{**fields, "id": self.id or slug(self.prompt), "takes": self.take, "metadata": labels})
        except ValidationError as error:
            raise InvalidInput("; ".join(fault["msg"] for fault in error.errors(include_input=False))) from error

    def build_project(self) -> Project:
        """Build the project of the one requested shot.

        Raises:
            InvalidInput: A field does not fit the others.
        """
        try:
            return Project(name=self.project, shots=(self.build_shot(),), max_attempts=1, priority=self.priority)
        except ValidationError as error:
            raise InvalidInput("; ".join(fault["msg"] for fault in error.errors(include_input=False))) from error


class BatchBody(Input):
    """The body of `POST /v1/batches`: several videos, each of which is accepted or refused by itself.

    Attributes:
        jobs: The requested videos.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"jobs": [{"prompt": "a cat", "duration": 4}, {"prompt": "a dog"}]}]}
    )

    jobs: tuple[GenerateBody, ...] = Field(min_length=1, max_length=BATCH_LIMIT)

    @property
    def digest(self) -> str:
        """The SHA-256 of the content, equal for every spelling of the same request."""
        return digest_of({"jobs": [job.digest for job in self.jobs]})


class ProjectBody(Project):
    """The body of `POST /v1/projects`: a project file as JSON.

    Attributes:
        callback_url: An address that is called, signed, when the project has ended.
        refresh: Buy again what is stored.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "project": "coffee-ad",
                    "defaults": {"duration": 4, "resolution": "720p"},
                    "budget_usd": 20,
                    "shots": [{"id": "opening", "prompt": "steam over a cup"}, {"id": "end", "prompt": "an empty cup"}],
                }
            ]
        }
    )

    budget_videos: int | None = Field(default=None, ge=0, strict=True)
    max_attempts: int = Field(default=2, ge=1, le=10, strict=True)
    fan_out: int | None = Field(default=None, ge=1, le=100, strict=True)
    callback_url: CallbackUrl | None = None
    refresh: bool = Field(default=False, strict=True)

    @property
    def digest(self) -> str:
        """The SHA-256 of all fields that differ from their defaults, equal for every spelling of the same request."""
        return digest_of(self.model_dump(mode="json", exclude_defaults=True))

    def build_project(self) -> Project:
        """Build the project.

        Raises:
        InvalidInput: A shot or the cut names a file, which a client cannot choose on the service's machine.
        """
        if named := _find_local_file(self):
            raise InvalidInput(
                f"{named}: a request cannot name files of the service's machine; give an https address, or run the"
                " project with `prefect-video run` where the files are"
            )
        return Project.model_validate(self.model_dump(exclude={"callback_url", "refresh"}))


def _find_local_file(project: Project) -> str | None:
    """Return the place of the first file that a project names by its path; None where it names none."""
    for shot in project.shots:
        addresses = {**shot.images, "clip": (shot.clip,) if shot.clip else ()}
        for field, given in addresses.items():
            if not all(map(is_web_address, given)):
                return f"shot {shot.id!r}: {field}"
    cut = project.cut
    files = {name: getattr(getattr(cut, name, None), "file", None) for name in ("music", "captions")}
    files["font"] = cut.font if cut else None
    return next((f"cut: {name}" for name, file in files.items() if file), None)


def digest_of(content: dict[str, Any]) -> str:
    """Return the SHA-256 of a request's content."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
